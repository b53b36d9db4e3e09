"""The chart within the rules of a platform: in a parent chart, on OpenShift, with an earlier chart's values."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.helm import CHART, HelmError, rendered

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_DEFINITIONS = {"crds": {"install": False}}
# Helpers of a neighbour have names that many charts use
NEIGHBOUR = """{{- define "labels" -}}a: b{{- end -}}
{{- define "fullname" -}}neighbour{{- end -}}
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ include "fullname" . }}, labels: {{ "{" }}{{ include "labels" . }}{{ "}" }}}
"""


def parent(folder: Path, *dependencies: dict[str, Any]) -> Path:
    """A chart with a neighbour and these dependencies on kubeirq."""
    made = folder / "parent"
    shutil.copytree(CHART, made / "charts" / "kubeirq")
    (made / "charts" / "web" / "templates").mkdir(parents=True)
    (made / "charts" / "web" / "templates" / "all.yaml").write_text(NEIGHBOUR)
    (made / "charts" / "web" / "Chart.yaml").write_text("{apiVersion: v2, name: web, version: 1.0.0}")
    own = [{"name": "kubeirq", "version": "0.1.0", **found} for found in dependencies]
    chart = {"apiVersion": "v2", "name": "parent", "version": "1.0.0"}
    chart["dependencies"] = [*own, {"name": "web", "version": "1.0.0"}]
    (made / "Chart.yaml").write_text(json.dumps(chart))
    return made


def pods_of(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every pod of the objects, as its spec."""
    for found in objects:
        if found["kind"] in ("Deployment", "StatefulSet"):
            yield found["spec"]["template"]["spec"]
        elif found["kind"] == "Pod":
            yield found["spec"]


def containers_of(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for pod in pods_of(objects):
        yield from (*pod.get("initContainers", ()), *pod["containers"])


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


async def test_a_parent_chart_gives_it_an_alias_a_condition_a_registry_and_pull_secrets(tmp_path: Path) -> None:
    chart = parent(tmp_path, {"alias": "events", "condition": "events.enabled"})
    values = {
        "events": {
            "enabled": True,
            "imagePullSecrets": ["own"],
            "plugins": [{"kind": "RedisTrigger", "image": "r/a:1"}],
        },
        "global": {"imageRegistry": "mirror:5000", "imagePullSecrets": [{"name": "all"}], "others": {"a": 1}},
    }
    found = await rendered(values, release="shop", chart=chart)
    own = [one for one in found if one["kind"] != "CustomResourceDefinition" and one["metadata"]["name"] != "neighbour"]
    assert all(one["metadata"]["name"].startswith("shop-events-") for one in own)
    # the command line finds the controllers by this label
    assert {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in own} == {"kubeirq"}
    for deployment in (one for one in own if one["kind"] == "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert {one["image"] for one in containers_of(own)} == {
        "mirror:5000/kubeirq/controllers:0.1.0",
        "mirror:5000/r/a:1",
    }
    assert all(pod["imagePullSecrets"] == [{"name": "all"}, {"name": "own"}] for pod in pods_of(own))
    off = await rendered({"events": {"enabled": False}}, release="shop", chart=chart)
    assert [one["kind"] for one in off] == ["ConfigMap"]


async def test_an_image_with_a_registry_of_its_own_stays_there() -> None:
    values = {"image": {"repository": "quay.io/kubeirq/controllers"}, "global": {"imageRegistry": "mirror:5000"}}
    assert {one["image"] for one in containers_of(await rendered({**values, **WITHOUT_DEFINITIONS}))} == {
        "quay.io/kubeirq/controllers:0.1.0"
    }


async def test_two_aliases_in_one_release_are_refused(tmp_path: Path) -> None:
    chart = parent(tmp_path, {"alias": "blue"}, {"alias": "green"})
    with pytest.raises(HelmError, match="are both kubeirq, and two in a namespace share their Leases"):
        await rendered({"green": WITHOUT_DEFINITIONS}, chart=chart)


async def test_on_openshift_no_pod_names_a_user_and_the_rest_stays_restricted() -> None:
    found = await rendered({**WITHOUT_DEFINITIONS, "openshift": {"enabled": True}})
    for pod in pods_of(found):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["securityContext"].keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (functions,) = named(found, "Deployment", "kubeirq-functions")["spec"]["template"]["spec"]["containers"]
    assert {"name": "KUBEIRQ_FIXED_USER", "value": "false"} in functions["env"]


async def test_a_given_field_of_a_security_context_replaces_the_charts_and_null_leaves_it_out() -> None:
    values = {
        "podSecurityContext": {"runAsUser": 1000, "fsGroup": None, "supplementalGroups": [7]},
        "securityContext": {"readOnlyRootFilesystem": False},
    }
    found = await rendered({**WITHOUT_DEFINITIONS, **values})
    for pod in pods_of(found):
        assert pod["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 65532, "supplementalGroups": [7],
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
    for container in containers_of(found):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": False, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip


async def test_an_upgrade_that_reuses_the_values_of_the_first_version_is_as_one_with_the_new_defaults(
    tmp_path: Path,
) -> None:
    """`helm upgrade --reuse-values` gives a chart no default that the installed chart did not have."""
    reused = tmp_path / "kubeirq"
    shutil.copytree(CHART, reused)
    shutil.copy(ROOT / "tests" / "recorded" / "values_0_1_0.yaml", reused / "values.yaml")
    secrets = {"store": {"embedded": {"existingSecret": "login"}}, "adminApi": {"existingSecret": "certificate"}}
    found, expected = await rendered(secrets, chart=reused), await rendered(secrets)
    assert yaml.safe_dump_all(found) == yaml.safe_dump_all(expected)
    assert any(one["metadata"]["name"] == "kubeirq-admin" for one in await rendered(chart=reused))
