"""The text for a pod that does not become ready; the kubelet's messages are those of a real one."""

from datetime import UTC, datetime
from typing import Any

import pytest

from controllers.functions.pod_problems import problem_of, slow_start_of
from controllers.functions.resource import FunctionSpec

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
SOON, LONG_AGO = "2026-01-02T11:59:50Z", "2026-01-02T11:50:00Z"
ENV = [
    {"name": "A", "value": "1"},
    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "have", "key": "other"}}},
    {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "have", "key": "nokey"}}},
]
ENV_FROM = [{"secretRef": {"name": "more"}}, {"configMapRef": {"name": "common"}}]


def spec(**fields: Any) -> FunctionSpec:
    return FunctionSpec.model_validate({"source": {"inline": ""}, **fields})


def pod(*containers: dict[str, Any], **conditions: tuple[str, str]) -> dict[str, Any]:
    """`conditions`: status and the time of its last change."""
    told = [
        {"type": name, "status": status, "lastTransitionTime": at, "message": ""}
        for name, (status, at) in conditions.items()
    ]
    return {
        "metadata": {"name": "invoice-1", "namespace": "shop"},
        "status": {"containerStatuses": list(containers), "conditions": told},
    }


def waiting(reason: str, message: str, name: str = "function") -> dict[str, Any]:
    return {"name": name, "image": "mine:1", "state": {"waiting": {"reason": reason, "message": message}}}


def ended(code: int, message: str = "", name: str = "function", reason: str = "Error") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": message, "reason": reason}}
    return {"name": name, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": state}


def told(found: dict[str, Any], config_map: Any = None, **fields: Any) -> tuple[str, str]:
    problem = problem_of(spec(**fields), found, config_map, NOW)
    return ("", "") if problem is None else (problem.reason, problem.message)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            'secret "login" not found',
            "spec.env[1].valueFrom.secretKeyRef: there is no Secret 'login'; create it in namespace 'shop', and the "
            "pod starts",
        ),
        (
            'configmap "common" not found',
            "spec.envFrom[1].configMapRef: there is no ConfigMap 'common'; create it in namespace 'shop', and the "
            "pod starts",
        ),
        (
            "couldn't find key nokey in ConfigMap default/have",
            "spec.env[3].valueFrom.configMapKeyRef: ConfigMap 'have' has no key 'nokey'; add the key, or name "
            "another one",
        ),
        (
            'configmap "patched" not found',
            "spec.podTemplate: there is no ConfigMap 'patched'; create it in namespace 'shop', and the pod starts",
        ),
        (
            'container\'s runAsUser breaks non-root policy (pod: "invoice-1", container: function)',
            'spec.podTemplate: container function: container\'s runAsUser breaks non-root policy (pod: "invoice-1", '
            "container: function); functions do not run as root: remove runAsUser, or set runAsNonRoot: false",
        ),
    ],
)
def test_a_container_that_cannot_be_made_names_the_field_and_what_to_create(said: str, expected: str) -> None:
    found = pod(waiting("CreateContainerConfigError", said))

    assert told(found, env=ENV, envFrom=ENV_FROM) == ("CreateContainerConfigError", expected)


@pytest.mark.parametrize(
    ("config_map", "expected"),
    [
        (
            None,
            "spec.source.configMap: there is no ConfigMap 'code' in namespace 'shop'; create it, and the pod starts",
        ),
        ({"data": {"a": ""}, "binaryData": {"b": ""}},
         "spec.source.configMap.key: ConfigMap 'code' has no key 'main'; its keys: a, b"),
        ({}, "spec.source.configMap.key: ConfigMap 'code' has no key 'main'; its keys: none"),
    ],
)  # fmt: skip
def test_code_that_is_not_there_is_told_at_once(config_map: Any, expected: str) -> None:
    found = pod(waiting("PodInitializing", ""), PodReadyToStartContainers=("False", SOON))
    source = {"configMap": {"name": "code", "key": "main"}}

    assert told(found, config_map, source=source) == ("SourceMissing", expected)
    assert told(found, {"data": {"main": ""}}, source=source) == ("", ""), "it is there: the pod will start"


def test_other_volumes_that_do_not_come_are_told_when_they_take_longer_than_usual() -> None:
    assert told(pod(PodReadyToStartContainers=("False", SOON))) == ("", "")
    reason, message = told(pod(PodReadyToStartContainers=("False", LONG_AGO)))
    assert reason == "NotPrepared"
    assert "check that each Secret, ConfigMap and PersistentVolumeClaim in spec.podTemplate exists" in message
    assert "`kubectl describe pod invoice-1 -n shop`" in message


def test_an_image_is_told_in_the_same_words_whether_it_is_pulled_or_waited_for() -> None:
    said = 'failed to resolve reference "mine:1": not found'
    pulled = told(pod(waiting("ErrImagePull", said)))
    backed_off = told(pod(waiting("ImagePullBackOff", f'Back-off pulling image "mine:1": ErrImagePull: {said}')))
    assert pulled == backed_off
    assert pulled[0] == "ImagePullBackOff"


@pytest.mark.parametrize(
    ("container", "reason", "message"),
    [
        (
            ended(3, "Traceback (most recent call last):\n  File x\n    ~~~^^^^\n"
                     "ModuleNotFoundError: No module named 'nowhere'\n"
                     "runtime: the function does not start (exit code 3)\n"),
            "CrashLoopBackOff",
            "the function does not start; the last lines of its log: "
            "File x | ModuleNotFoundError: No module named 'nowhere'",
        ),
        (
            ended(3, "ValueError: FUNC_HANDLER: module 'greet' has no function 'nothing'"),
            "CrashLoopBackOff",
            "the function does not start; the last lines of its log: "
            "ValueError: spec.handler: module 'greet' has no function 'nothing'",
        ),
        (
            ended(137, "busy"),
            "CrashLoopBackOff",
            "the function was killed, as happens when it does not answer /healthz; the last lines of its log: busy",
        ),
        (
            ended(1, 'Error on reading termination message from logs: failed to try resolving symlinks in path "/var"'),
            "CrashLoopBackOff",
            "the function ended with exit code 1; `kubectl logs invoice-1 -n shop -c function "
            "--previous` may show more",
        ),
        (
            ended(1, "Error on reading termination message from logs: x", name="fetch"),
            "FetchFailed",
            "spec.source.url: the download ended with exit code 1; `kubectl logs invoice-1 -n shop -c fetch "
            "--previous` may show more",
        ),
        (
            ended(1, "Looking\nERROR: No matching distribution found for nope==1\nnotice: a new pip", "dependencies"),
            "DependenciesFailed",
            "spec.dependencies: not installed: ERROR: No matching distribution found for nope==1",
        ),
        (
            ended(1, "WARNING: Retrying after NewConnectionError('x: Temporary failure in name resolution')\n"
                     "ERROR: No matching distribution found for nope==1", "dependencies"),
            "DependenciesFailed",
            "spec.dependencies: the package index cannot be reached; check functions.packageIndex in the chart's "
            "values: ERROR: No matching distribution found for nope==1",
        ),
    ],
)  # fmt: skip
def test_what_ended_is_told_in_the_words_of_the_resource(container: dict[str, Any], reason: str, message: str) -> None:
    assert told(pod(container)) == (reason, message)


@pytest.mark.parametrize(
    ("said", "way_out"),
    [
        (
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are ...",
            "0/1 nodes are available: 1 Insufficient cpu; lower spec.resources.requests, or add nodes",
        ),
        (
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: none",
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector; check nodeSelector, "
            "affinity and tolerations in spec.podTemplate, and the taints of the nodes",
        ),
    ],
)
def test_a_pod_that_no_node_takes_names_what_to_change(said: str, way_out: str) -> None:
    found = pod()
    found["status"]["conditions"] = [{"type": "PodScheduled", "reason": "Unschedulable", "message": said}]

    assert told(found) == ("Unschedulable", f"no node can run the pod: {way_out}")


def test_a_slow_start_is_told_after_a_while_and_is_no_fault() -> None:
    def running(since: str, *, started: bool = False) -> dict[str, Any]:
        return pod({"name": "function", "started": started, "state": {"running": {"startedAt": since}}})

    assert slow_start_of(running(SOON), NOW) == ""
    assert slow_start_of(running(LONG_AGO, started=True), NOW) == ""
    assert slow_start_of(running(LONG_AGO), NOW).startswith(
        f"it has run since {LONG_AGO} and has not answered /healthz"
    )
    assert told(running(LONG_AGO)) == ("", "")
