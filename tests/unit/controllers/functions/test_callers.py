"""The NetworkPolicies of functions: of all pods, the fabric and those that someone allows reach a function."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from controllers.functions.pod_template import Settings
from controllers.functions.resource import FunctionSpec
from controllers.functions.workload import objects_of
from controllers.triggers.exposure import callers_policy_of
from trigger_sources.http.source import HTTPTrigger

METADATA = {"name": "pay", "namespace": "shop", "uid": "u-1"}
FABRIC = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kubeirq"}},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kubeirq"}},
}
MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
INGRESS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}

Labels = Mapping[str, str]


def of_function(*callers: Mapping[str, Any]) -> list[dict[str, Any]]:
    spec = FunctionSpec.model_validate({"source": {"inline": "def handler(event, context): ..."}}).named("pay")
    found = objects_of(METADATA, spec, Settings("runtime:1", callers=callers or None))
    kinds = [each["kind"] for each in found]
    assert "NetworkPolicy" not in kinds or kinds.index("NetworkPolicy") < kinds.index("Deployment")
    return [each for each in found if each["kind"] == "NetworkPolicy"]


def of_exposed(*callers: Mapping[str, Any]) -> dict[str, Any]:
    spec = HTTPTrigger.model_validate({"function": "pay", "expose": {"ingress": {}}})
    return callers_policy_of({**METADATA, "name": "pay"}, spec, callers)


def reaches(policies: Sequence[Mapping[str, Any]], namespace: str, pod: Labels, port: int = 8080) -> bool:
    """Whether a pod reaches that TCP port of the function, as Kubernetes defines it."""
    for policy in policies:
        assert policy["spec"]["podSelector"] == {"matchLabels": {"kubeirq.dev/function": "pay"}}
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        for rule in policy["spec"]["ingress"]:
            fits = any(
                each["protocol"] == "TCP" and each["port"] <= port <= each.get("endPort", each["port"])
                for each in rule["ports"]
            )
            if fits and (not rule.get("from") or any(is_peer(peer, namespace, pod) for peer in rule["from"])):
                return True
    return not policies


def is_peer(peer: Mapping[str, Any], namespace: str, pod: Labels) -> bool:
    where = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    wanted = peer.get("podSelector", {}).get("matchLabels", {})
    return bool(where == namespace and wanted.items() <= pod.items())


CONTROLLER = {"app.kubernetes.io/name": "kubeirq", "app.kubernetes.io/component": "http"}


@pytest.mark.parametrize(
    ("namespace", "pod", "port", "may"),
    [
        ("kubeirq", CONTROLLER, 8080, True),
        ("kubeirq", {"app": "other"}, 8080, False),
        ("shop", CONTROLLER, 8080, False),  # the labels of the fabric, in a namespace of someone else
        ("shop", {"kubeirq.dev/function": "other"}, 8080, False),
        ("monitoring", {}, 8080, True),
        ("shop", {}, 9102, True),  # a sidecar of a podTemplate
        ("shop", {}, 1, True),
        ("shop", {}, 65_535, True),
    ],
)
def test_of_all_pods_the_fabric_and_the_allowed_ones_reach_a_function(
    namespace: str, pod: Labels, port: int, may: bool
) -> None:
    assert reaches(of_function(FABRIC, MONITORING), namespace, pod, port) is may


def test_without_callers_everyone_does() -> None:
    assert of_function() == []


def test_the_function_of_an_exposed_trigger_is_open_to_everyone_or_to_the_ingress_controllers() -> None:
    closed = of_function(FABRIC)
    assert reaches([*closed, of_exposed()], "elsewhere", {})
    assert reaches([*closed, of_exposed(INGRESS)], "ingress", {})
    assert reaches([*closed, of_exposed(INGRESS)], "kubeirq", CONTROLLER)
    assert not reaches([*closed, of_exposed(INGRESS)], "elsewhere", {})


def test_a_trigger_and_a_function_of_one_name_have_policies_of_their_own() -> None:
    (closed,) = of_function(FABRIC)
    opened = of_exposed()
    assert closed["metadata"]["name"] == "pay-callers"
    assert opened["metadata"]["name"] == "pay-exposed"
    assert [found["metadata"]["ownerReferences"][0]["kind"] for found in (closed, opened)] == [
        "Function", "HTTPTrigger",
    ]  # fmt: skip
