"""How a Function is, told from its Deployment and its pods. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controllers.conditions import Condition
from controllers.function import FunctionSpec

FUNCTION_LABEL = "kubeirq.dev/function"
PORT = 8080

_HASH_LABEL = "pod-template-hash"
_PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_NOT_MADE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_LAST_LINES = 5
_MOST_CHARACTERS = 600


def url_of(namespace: str, name: str) -> str:
    """Where the function is called inside its cluster."""
    return f"http://{name}.{namespace}.svc:{PORT}"


def status_of(
    spec: FunctionSpec, deployment: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[Condition]]:
    """The status' fields, and the conditions Accepted, Available (something serves) and Ready (all of it, and new).

    `deployment` is the live one, `pods` are all of the function's; none are needed while every replica is well.
    """
    counts = deployment.get("status", {})
    metadata = deployment.get("metadata", {})
    available = counts.get("availableReplicas", 0)
    status: dict[str, Any] = {"replicas": counts.get("replicas", 0), "readyReplicas": counts.get("readyReplicas", 0)}
    if metadata:
        status["url"] = url_of(metadata["namespace"], metadata["name"])
        status["selector"] = f"{FUNCTION_LABEL}={metadata['name']}"
    ready = _ready(spec, deployment, pods)
    if available:
        # no count: it would be written with every replica that comes and goes
        serving = Condition("Available", "True", "Serving")
    else:
        serving = Condition("Available", "False", "NothingServes", ready.message)
    return status, [Condition("Accepted", "True", "Accepted"), serving, ready]


def _ready(spec: FunctionSpec, deployment: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> Condition:
    counts, metadata = deployment.get("status", {}), deployment.get("metadata", {})
    if not metadata or counts.get("observedGeneration", 0) < metadata.get("generation", 0):
        return Condition("Ready", "False", "Starting", "the Deployment was written and not looked at yet")
    wanted = deployment.get("spec", {}).get("replicas", spec.scale.min)
    replicas, updated, ready = (counts.get(f"{kind}eplicas", 0) for kind in ("r", "updatedR", "readyR"))
    if updated == replicas and ready >= min(wanted, spec.scale.min):  # those an autoscaler adds may take their time
        return Condition("Ready", "True", "Ready")
    pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    newest_first = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    for pod in newest_first:
        if not _is_ready(pod) and (problem := _problem_of(spec, pod)) is not None:
            of_other_version = any(_is_ready(other) and _version_of(other) != _version_of(pod) for other in pods)
            return problem.condition(other_serves=of_other_version)
    if (refused := _condition(deployment, "ReplicaFailure")).get("status") == "True":
        message = f"no pod can be made: {refused.get('message', '')}"
        return Problem("PodsRefused", message).condition(other_serves=ready > 0 and updated < wanted)
    if _condition(deployment, "Progressing").get("reason") == "ProgressDeadlineExceeded":
        message = "it answers no /healthz; `kubectl logs` and `kubectl describe pod` say more"
        return Problem("NotReady", message).condition(other_serves=ready > 0 and updated < replicas)
    if updated < wanted or updated < replicas:
        return Condition("Ready", "False", "RollingOut", "the new version starts")
    return Condition("Ready", "False", "Starting", "replicas start")


@dataclass(frozen=True)
class Problem:
    """What keeps a pod from being ready: a word, and for a person what happened and what to do."""

    reason: str
    message: str

    def condition(self, *, other_serves: bool) -> Condition:
        if not other_serves:
            return Condition("Ready", "False", self.reason, self.message)
        message = f"the old version still serves; the new one does not start: {self.reason}: {self.message}"
        return Condition("Ready", "False", "RolloutStuck", message)


def _problem_of(spec: FunctionSpec, pod: Mapping[str, Any]) -> Problem | None:
    """None: nothing is wrong that can be told as yet."""
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("reason") == "Unschedulable":
        return Problem("Unschedulable", f"no node takes the pod: {scheduled.get('message', '')}")
    for container in _containers_of(pod):
        waiting = container.get("state", {}).get("waiting", {})
        reason = waiting.get("reason", "")
        if reason in _PULLING:
            return Problem(
                "ImagePullBackOff",
                f"the image {container.get('image', '')} cannot be pulled: {_tail(waiting.get('message'))}; "
                "check its name, and podTemplate.spec.imagePullSecrets",
            )
        if reason in _NOT_MADE:
            return Problem(reason, f"container {container['name']}: {_tail(waiting.get('message'))}")
        if (ended := _ended(container)) is not None:
            return _failure_of(spec, container["name"], ended)
    return None


def _failure_of(spec: FunctionSpec, container: str, ended: Mapping[str, Any]) -> Problem:
    said = _tail(ended.get("message")) or f"exit code {ended.get('exitCode')}"
    if ended.get("reason") == "OOMKilled":
        limit = (spec.resources.get("limits") or {}).get("memory", "none")
        return Problem("OutOfMemory", f"container {container} used more than it may; resources.limits.memory: {limit}")
    match container:
        case "dependencies":
            return Problem("DependenciesFailed", f"spec.dependencies: not installed: {said}")
        case "fetch":
            return Problem("FetchFailed", said)
        case "function":
            return Problem(
                "CrashLoopBackOff", f"the function ended with {ended.get('exitCode')}; its last words: {said}"
            )
        case _:
            return Problem("CrashLoopBackOff", f"container {container} ended with {ended.get('exitCode')}: {said}")


def _ended(container: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How it failed, now or the last time; None if it did not."""
    for state in (container.get("state", {}), container.get("lastState", {})):
        if "terminated" in state:
            ended: Mapping[str, Any] = state["terminated"]
            return ended if ended.get("exitCode") != 0 else None
    return None


def _containers_of(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses", [])
    yield from status.get("containerStatuses", [])


def _condition(found: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions = found.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _is_ready(pod: Mapping[str, Any]) -> bool:
    return _condition(pod, "Ready").get("status") == "True"


def _version_of(pod: Mapping[str, Any]) -> Any:
    return pod["metadata"].get("labels", {}).get(_HASH_LABEL)


def _tail(text: str | None) -> str:
    """The last lines that say something, in one."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return " | ".join(lines[-_LAST_LINES:])[-_MOST_CHARACTERS:]
