"""A trigger with another secret is another trigger, wherever its spec refers to the secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from kubeirq.manifests.loading import load
from kubeirq.on_machine.desired_state import load_desired_state
from trigger_sources.dispatch.flows import TriggerResource
from trigger_sources.source import MissingSecret
from trigger_sources.spec import SecretRef

SECRET = {"name": "s", "key": "k"}
NATS = {"security": {"token": SECRET}}
KAFKA = {"security": {"sasl": {"mechanism": "PLAIN", "username": "u", "password": SECRET}}}
SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "bearer": ("HTTPTrigger", {"path": "/p", "auth": {"bearer": {"tokens": [SECRET]}}}),
    "nats": ("NATSTrigger", {"subject": "s", **NATS}),
    "kafka": ("KafkaTrigger", {"topics": ["t"], **KAFKA}),
    "nats reply": ("CronTrigger", {"schedule": "@hourly", "reply": {"nats": {"subject": "s", **NATS}}}),
    "kafka reply": ("CronTrigger", {"schedule": "@hourly", "reply": {"kafka": {"topic": "t", **KAFKA}}}),
}


def trigger(folder: Path, kind: str, spec: dict[str, Any], text: str, other: str) -> TriggerResource:
    documents = [
        {"apiVersion": "kubeirq.dev/v1", "kind": kind, "metadata": {"name": "t"}, "spec": {"url": "http://f", **spec}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": text, "other": other}},
    ]
    (folder / "app.yaml").write_text("\n---\n".join(json.dumps(document) for document in documents))
    return load_desired_state([folder], None).triggers[0]


@pytest.mark.parametrize("place", SPECS)
def test_a_changed_secret_changes_the_trigger_and_another_key_of_it_does_not(place: str, tmp_path: Path) -> None:
    kind, spec = SPECS[place]
    first = trigger(tmp_path, kind, spec, "first", "1")
    assert trigger(tmp_path, kind, spec, "first", "2") == first
    assert trigger(tmp_path, kind, spec, "second", "1") != first
    assert "first" not in repr(first)


def test_a_secret_of_bytes_is_read_and_hidden_files_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "secrets" / "s"
    (folder / "..data").mkdir(parents=True)
    (folder / "good").write_text("text\n")
    (folder / "keystore").write_bytes(b"\xff\0\n")
    (folder / ".DS_Store").write_bytes(b"\xff")
    resources, problems = load([], tmp_path / "secrets")
    assert problems == []
    assert resources.secrets == {("default", "s"): {"good": "text", "keystore": "\udcff\0\n"}}


def test_a_secret_of_bytes_is_no_variable_and_no_password(tmp_path: Path) -> None:
    (tmp_path / "secrets" / "s").mkdir(parents=True)
    (tmp_path / "secrets" / "s" / "k").write_bytes(b"\xff\0")
    (tmp_path / "app.yaml").write_text(
        "apiVersion: kubeirq.dev/v1\nkind: Function\nmetadata: {name: f}\n"
        "spec: {source: {inline: ''}, envFrom: [{secretRef: {name: s}}]}\n"
    )
    desired = load_desired_state([tmp_path / "app.yaml"], tmp_path / "secrets")
    with pytest.raises(MissingSecret, match="k: its value has a null byte"):
        desired.environment(desired.functions[0])
    with pytest.raises(MissingSecret, match="its key 'k' is not text"):
        desired.secret("default", SecretRef(name="s", key="k"))
