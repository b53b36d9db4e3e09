"""How a Function is said to be: one reason a person can act on, whatever the Deployment and its pods look like."""

from datetime import UTC, datetime
from typing import Any

import pytest

from controllers.cluster.conditions import Condition
from controllers.functions.resource import FunctionSpec
from controllers.functions.status import status_of

SPEC = FunctionSpec.model_validate({"source": {"inline": ""}, "resources": {"limits": {"memory": "64Mi"}}})
OLD, NEW = "old", "new"
NOW = datetime(2026, 1, 2, 0, 1, tzinfo=UTC)


def deployment(*conditions: dict[str, Any], generation: int = 2, wanted: int = 1, **counts: int) -> dict[str, Any]:
    return {
        "metadata": {"name": "invoice", "namespace": "shop", "generation": generation},
        "spec": {"replicas": wanted},
        "status": {"observedGeneration": 2, "conditions": list(conditions), **counts},
    }


def pod(
    *containers: dict[str, Any],
    init: tuple[dict[str, Any], ...] = (),
    version: str = NEW,
    ready: bool = False,
    conditions: tuple[dict[str, Any], ...] = (),
    created: str = "2026-01-02T00:00:00Z",
    **metadata: Any,
) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"pod-template-hash": version}, "creationTimestamp": created, **metadata},
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready)}, *conditions],
            "initContainerStatuses": list(init),
            "containerStatuses": list(containers),
        },
    }


def waiting(name: str, reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "mine:1", "state": {"waiting": {"reason": reason, "message": message}}, **more}


def ended(exit_code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": exit_code, "message": message, "reason": reason}}


CRASHED = waiting("function", "CrashLoopBackOff", lastState=ended(3, "Traceback\n\nKeyError: 'HOST'\n"))
SERVING = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
NOTHING = {"replicas": 1, "updatedReplicas": 1}
ROLLING = {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}


def conditions(found: dict[str, Any], *pods: dict[str, Any]) -> dict[str, Condition]:
    return {condition.type: condition for condition in status_of(SPEC, found, pods, NOW)[1]}


def test_it_is_ready_when_all_replicas_of_the_newest_version_are() -> None:
    status, told = status_of(SPEC, deployment(**SERVING), [], NOW)

    assert [(condition.type, condition.status) for condition in told] == [
        ("Accepted", "True"),
        ("Available", "True"),
        ("Ready", "True"),
    ]
    assert status == {
        "replicas": 1,
        "readyReplicas": 1,
        "url": "http://invoice.shop.svc:8080",
        "selector": "kubeirq.dev/function=invoice",
    }


@pytest.mark.parametrize("found", [{}, deployment(generation=3, **SERVING)])
def test_a_deployment_that_nobody_has_looked_at_tells_nothing(found: dict[str, Any]) -> None:
    assert (conditions(found)["Ready"].status, conditions(found)["Ready"].reason) == ("False", "Starting")


def test_replicas_that_an_autoscaler_adds_do_not_make_it_unready() -> None:
    counts = {"replicas": 4, "updatedReplicas": 4, "readyReplicas": 2, "availableReplicas": 2}
    assert conditions(deployment(wanted=4, **counts))["Ready"].status == "True"


@pytest.mark.parametrize(
    ("found", "reason", "parts"),
    [
        (
            pod(waiting("function", "ImagePullBackOff", "not found")),
            "ImagePullBackOff",
            ("mine:1", "not found", "imagePullSecrets"),
        ),
        (pod(init=(waiting("runtime", "ErrImagePull", "denied"),)), "ImagePullBackOff", ("denied",)),
        (
            pod(CRASHED),
            "CrashLoopBackOff",
            ("does not start; the last lines of its log: Traceback | KeyError: 'HOST'",),
        ),
        (
            pod({"name": "function", "state": {"running": {}}, "lastState": ended(3, "boom")}),
            "CrashLoopBackOff",
            ("boom",),
        ),
        (
            pod({"name": "function", "state": ended(137, reason="OOMKilled")}),
            "OutOfMemory",
            ("raise spec.resources.limits.memory, which is 64Mi",),
        ),
        (
            pod(init=({"name": "runtime", "state": ended(0)}, {"name": "dependencies", "state": ended(1, "No match")})),
            "DependenciesFailed",
            ("spec.dependencies", "No match"),
        ),
        (
            pod(init=({"name": "fetch", "state": ended(1, "spec.source.sha256: it changed")},)),
            "FetchFailed",
            ("spec.source.sha256",),
        ),
        (
            pod(waiting("function", "CreateContainerConfigError", 'secret "s" not found')),
            "CreateContainerConfigError",
            ("spec.podTemplate: there is no Secret 's'; create it in namespace",),
        ),
        (
            pod(conditions=({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"},)),
            "Unschedulable",
            ("0/3",),
        ),
        (pod(waiting("function", "PodInitializing")), "Starting", ()),
        (pod({"name": "function", "state": {"running": {}}}), "Starting", ()),
    ],
)
def test_what_is_wrong_with_a_pod_is_the_reason(found: dict[str, Any], reason: str, parts: tuple[str, ...]) -> None:
    told = conditions(deployment(**NOTHING), found)

    assert (told["Ready"].status, told["Ready"].reason) == ("False", reason)
    assert all(part in told["Ready"].message for part in parts)
    assert (told["Available"].status, told["Available"].message) == ("False", told["Ready"].message)


def test_a_stuck_rollout_says_that_the_old_version_serves_and_why_the_new_one_does_not() -> None:
    told = conditions(deployment(wanted=1, **ROLLING), pod(CRASHED), pod(version=OLD, ready=True))

    assert told["Ready"].reason == "RolloutStuck"
    assert "the old version still serves" in told["Ready"].message
    assert "CrashLoopBackOff" in told["Ready"].message
    assert "KeyError: 'HOST'" in told["Ready"].message
    assert told["Available"].status == "True"


def test_one_sick_replica_among_those_of_one_version_is_no_stuck_rollout() -> None:
    spec = SPEC.model_copy(update={"scale": type(SPEC.scale)(min=2)})
    counts = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 1, "availableReplicas": 1}

    _, told = status_of(spec, deployment(wanted=2, **counts), [pod(CRASHED), pod(ready=True)], NOW)

    assert {condition.type: condition.reason for condition in told}["Ready"] == "CrashLoopBackOff"


def test_a_former_version_that_crashes_is_no_problem_of_the_newest_one() -> None:
    old = pod(CRASHED, version=OLD, created="2026-01-01T00:00:00Z")
    new = pod(waiting("function", "ContainerCreating"))
    counts = {"replicas": 2, "updatedReplicas": 1}
    assert conditions(deployment(**counts), old, new)["Ready"].reason == "RollingOut"
    assert conditions(deployment(**counts), old)["Ready"].reason == "CrashLoopBackOff"


def test_the_newest_pods_problem_is_told_and_leaving_pods_have_none() -> None:
    older = pod(waiting("function", "ImagePullBackOff"), created="2026-01-01T00:00:00Z")
    leaving = pod(waiting("function", "ErrImagePull"), created="2026-01-03T00:00:00Z", deletionTimestamp="now")

    assert conditions(deployment(**NOTHING), older, leaving, pod(CRASHED))["Ready"].reason == "CrashLoopBackOff"


LATE = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
REFUSED = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}


@pytest.mark.parametrize(
    ("found", "reason", "part"),
    [
        (deployment(**ROLLING), "RollingOut", "new version"),
        (deployment(LATE, **ROLLING), "RolloutStuck", "NotReady"),
        (deployment(LATE, **NOTHING), "NotReady", "/healthz"),
        (deployment(REFUSED), "PodsRefused", "exceeded quota"),
        (
            deployment(REFUSED, replicas=1, readyReplicas=1, availableReplicas=1),
            "RolloutStuck",
            "exceeded quota",
        ),
    ],
)
def test_what_the_deployment_says_counts_where_no_pod_says_more(found: dict[str, Any], reason: str, part: str) -> None:
    told = conditions(found)["Ready"]

    assert told.reason == reason
    assert part in told.message


def test_a_long_message_is_cut_to_its_end() -> None:
    noise = "\n".join(f"line {number} {'x' * 200}" for number in range(50))
    message = conditions(deployment(**NOTHING), pod({"name": "function", "state": ended(1, noise)}))["Ready"].message

    assert len(message) < 800
    assert message.endswith("x" * 200)
