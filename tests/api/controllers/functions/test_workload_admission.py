"""A real API server accepts the objects of a Function unchanged, and their pods are restricted."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from servers.kubernetes import APIServer, api_server

from controllers.cluster.api import FIELD_MANAGER
from controllers.cluster.differences import contains, has_stale_fields
from controllers.cluster.strategic_merge import merged
from controllers.functions.pod_template import Settings
from controllers.functions.resource import FunctionSpec
from controllers.functions.workload import objects_of

NAMESPACE = "shop"
FUNCTION = {
    "handler": "shop.invoice.create",
    "source": {"inline": "def create(event, context): ..."},
    "dependencies": "requests\n",
    "timeoutSeconds": 0.5,
    "env": [
        {"name": "EMPTY", "value": ""},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ],
    "envFrom": [{"secretRef": {"name": "s", "optional": True}}],
    "resources": {"requests": {"cpu": 0.1, "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
    "scale": {"min": 2, "max": 5},
    "podTemplate": {"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]}},
}
CALLERS = ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kubeirq"}}},)
BY_URL = {"source": {"url": "https://example.com/code.zip", "sha256": "a" * 64}, "handler": "a.b", "scale": {"min": 2}}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[APIServer]:
    async with api_server(controllers=True) as found:
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
        await found.kubectl("apply", "-f", "-", input=json.dumps(namespace))
        yield found


def built(name: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
    metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-of-{name}"}
    objects = objects_of(metadata, FunctionSpec.model_validate(spec), Settings("runtime:1", callers=CALLERS))
    for found in objects:
        del found["metadata"]["ownerReferences"]  # there is no such owner: the garbage collector would take it all
    return objects


async def applied(server: APIServer, wanted: dict[str, Any]) -> dict[str, Any]:
    flags = ("--server-side", "--validate=strict", "--field-manager=kubeirq", "--filename=-")
    flags += ("--output=json", "--show-managed-fields")
    live: dict[str, Any] = json.loads(await server.kubectl("apply", *flags, input=json.dumps(wanted)))
    return live


async def test_the_api_server_accepts_all_objects_and_they_have_no_drift_afterwards(server: APIServer) -> None:
    for wanted in (*built("invoice", FUNCTION), *built("fetched", BY_URL)):
        live = await applied(server, wanted)
        is_as_wanted = contains(live, wanted) and not has_stale_fields(live, wanted, FIELD_MANAGER)
        assert is_as_wanted, f"{wanted['kind']} would be written again and again: {live}"


async def test_the_pods_are_admitted_to_a_restricted_namespace(server: APIServer) -> None:
    for wanted in (*built("invoice", FUNCTION), *built("fetched", BY_URL)):
        await applied(server, wanted)
    pods: list[dict[str, Any]] = []
    while {pod["metadata"]["labels"]["kubeirq.dev/function"] for pod in pods} != {"invoice", "fetched"}:
        pods = json.loads(await server.kubectl("get", "pods", "-n", NAMESPACE, "-o", "json"))["items"]
        sets = json.loads(await server.kubectl("get", "replicasets", "-n", NAMESPACE, "-o", "json"))["items"]
        refused = [told for found in sets for told in found["status"].get("conditions", [])]
        assert not refused
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("field", ["env", "envFrom", "resources", "dependencies", "podTemplate"])
async def test_fields_removed_from_a_function_are_removed_from_its_deployment(server: APIServer, field: str) -> None:
    full = {**FUNCTION, "scale": {}}
    less = {name: part for name, part in full.items() if name != field}
    before, after = (
        next(found for found in built(f"less-{field.lower()}", spec) if found["kind"] == "Deployment")
        for spec in (full, less)
    )
    assert has_stale_fields(await applied(server, before), after, FIELD_MANAGER)
    live = await applied(server, after)
    assert contains(live, after)
    assert not has_stale_fields(live, after, FIELD_MANAGER)


PATCHES: list[dict[str, Any]] = [
    {"containers": [{"name": "function", "image": "mine"}, {"name": "proxy", "image": "p"}]},
    {"containers": [{"name": "function", "env": [{"name": "HOME", "$patch": "delete"}, {"name": "X", "value": "1"}]}]},
    {"containers": [{"name": "function", "ports": [{"containerPort": 8080, "name": "web", "protocol": "TCP"}]}]},
    {"containers": [{"name": "function", "livenessProbe": None, "command": ["sh"]}]},
    {"containers": [{"name": "function", "volumeMounts": [{"mountPath": "/tmp", "name": "dependencies-file"}]}]},
    {"initContainers": [{"name": "dependencies", "$patch": "delete"}]},
    {"initContainers": [{"$patch": "replace"}, {"name": "mine", "image": "i"}]},
    {"volumes": [{"name": "tmp", "emptyDir": None, "hostPath": {"path": "/x"}}, {"name": "new", "emptyDir": {}}]},
    {"securityContext": {"$patch": "replace", "runAsNonRoot": True}},
    {"securityContext": {"runAsUser": None, "fsGroup": 7}, "nodeSelector": {"a": "b"}},
    {"tolerations": [{"key": "a", "operator": "Exists"}], "imagePullSecrets": [{"name": "s"}]},
    {"topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "maxSkew": 2}]},
]


async def test_a_pod_template_is_merged_as_the_api_server_merges_it(server: APIServer) -> None:
    (deployment,) = [found for found in built("invoice", FUNCTION) if found["kind"] == "Deployment"]
    live = await applied(server, deployment)
    for patch in PATCHES:
        theirs = json.loads(
            await server.kubectl(
                "patch", "deployment", "invoice", "-n", NAMESPACE, "--type=strategic", "--dry-run=server", "-o", "json",
                "-p", json.dumps({"spec": {"template": {"spec": patch}}}),
            )
        )["spec"]["template"]["spec"]  # fmt: skip
        ours = merged(live["spec"]["template"]["spec"], patch)
        assert contains(by_name(theirs), by_name(ours)), patch
        for kind in ("containers", "initContainers", "volumes"):
            assert {item["name"] for item in theirs.get(kind, [])} == {item["name"] for item in ours.get(kind, [])}, (
                patch
            )
        assert len(theirs["containers"][0]["env"]) == len(ours["containers"][0]["env"]), patch


def names_of(pod: dict[str, Any], kind: str) -> set[str]:
    return {item["name"] for item in pod.get(kind, [])}


def by_name(value: Any) -> Any:
    """The value with its lists of named items sorted: the server puts new items first, this project puts them last."""
    if isinstance(value, dict):
        return {name: by_name(inner) for name, inner in value.items()}
    if isinstance(value, list):
        items = [by_name(item) for item in value]
        if all(isinstance(item, dict) and "name" in item for item in items):
            items.sort(key=lambda item: str(item["name"]))
        return items
    return value
