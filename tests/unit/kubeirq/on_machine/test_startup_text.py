"""The commands in the text at the start of `kubeirq dev` can be pasted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kubeirq.on_machine.fabric import Fabric
from kubeirq.on_machine.startup_text import example_command, example_path, example_subject
from trigger_sources.cron import CronTrigger
from trigger_sources.dispatch.flows import TriggerResource
from trigger_sources.http import HTTPTrigger
from trigger_sources.kafka import KafkaTrigger
from trigger_sources.nats import NATSTrigger


@pytest.mark.parametrize(
    ("subject", "example"),
    [("jobs", "jobs"), ("jobs.>", "jobs.example"), ("a.*.b", "a.example.b"), ("*", "example"), ("a*.b", "a*.b")],
)
def test_a_subject_has_a_word_for_each_wildcard(subject: str, example: str) -> None:
    assert example_subject(subject) == example


@pytest.mark.parametrize(
    ("path", "example"),
    [("/x", "/x"), ("/orders/{id}", "/orders/id"), ("/{all...}", "/all"), ("/a/{b}/c/{d...}", "/a/b/c/d")],
)
def test_a_path_has_a_value_for_each_parameter(path: str, example: str) -> None:
    assert example_path(path) == example


@pytest.mark.parametrize(
    ("auth", "credentials"),
    [
        ({"bearer": {"tokens": [{"name": "shop", "key": "token"}]}}, '-H "authorization: Bearer $TOKEN"'),
        ({"basic": {"users": {"name": "shop", "key": "users"}}}, '-u "$USER_AND_PASSWORD"'),
    ],
)
def test_a_command_has_a_place_for_the_credentials_that_a_trigger_asks_for(auth: Any, credentials: str) -> None:
    spec = HTTPTrigger.model_validate({"function": "f", "auth": auth})
    fabric = cast(Fabric, SimpleNamespace(http_address="http://127.0.0.1:8080", state=Path(".kubeirq")))
    found = example_command(TriggerResource("HTTPTrigger", "default", "orders", spec, "uid"), fabric)
    assert found.startswith(f"curl http://127.0.0.1:8080/orders {credentials} -H ")


@pytest.mark.parametrize(
    ("kind", "fields", "state", "command"),
    [
        (KafkaTrigger, {"topics": ["orders"]}, ".kubeirq", """kubeirq publish t -d '{"hello": "world"}'"""),
        (KafkaTrigger, {"topicPattern": "o.*"}, ".kubeirq", "records of the topics that match o.*, from 127.0.0.1:1"),
        (NATSTrigger, {"subject": "jobs"}, "other", """kubeirq publish t --state other -d '{"hello": "world"}'"""),
        (NATSTrigger, {"subject": "a.*"}, ".kubeirq",
         """kubeirq publish t --subject a.example -d '{"hello": "world"}'"""),
        (CronTrigger, {"schedule": "0 5 * * *"}, ".kubeirq", "runs at 0 5 * * *; now: kubeirq fire t"),
    ],
)  # fmt: skip
def test_a_command_needs_no_program_but_kubeirq(kind: Any, fields: Any, state: str, command: str) -> None:
    host = SimpleNamespace(defaults={"kafka": ["127.0.0.1:1"], "nats": ["nats://127.0.0.1:2"]})
    fabric = cast(Fabric, SimpleNamespace(host=host, state=Path(state)))
    spec = kind.model_validate({"function": "f", **fields})
    assert example_command(TriggerResource(kind.__name__, "default", "t", spec, "uid"), fabric) == command
