"""How a Function is, told from its Deployment and its pods. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from controllers.cluster.conditions import Condition
from controllers.functions.pod_problems import Problem, condition_of, problem_of, refusal_of, slow_start_of
from controllers.functions.resource import FunctionSpec

FUNCTION_LABEL = "kubeirq.dev/function"
PORT = 8080

_HASH_LABEL = "pod-template-hash"


def url_of(namespace: str, name: str) -> str:
    """Where the function is called inside its cluster."""
    return f"http://{name}.{namespace}.svc:{PORT}"


def status_of(
    spec: FunctionSpec,
    deployment: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    now: datetime,
    config_map: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[Condition]]:
    """The status' fields, and the conditions Accepted, Available (something serves) and Ready (all of it, and new).

    `deployment` is the live one, `pods` are all of the function's, `config_map` is that of spec.source.configMap;
    neither is needed while every replica is well.
    """
    counts = deployment.get("status", {})
    metadata = deployment.get("metadata", {})
    available = counts.get("availableReplicas", 0)
    status: dict[str, Any] = {"replicas": counts.get("replicas", 0), "readyReplicas": counts.get("readyReplicas", 0)}
    if metadata:
        status["url"] = url_of(metadata["namespace"], metadata["name"])
        status["selector"] = f"{FUNCTION_LABEL}={metadata['name']}"
    ready = _ready(spec, deployment, pods, now, config_map)
    if available:
        # no count: it would be written with every replica that comes and goes
        serving = Condition("Available", "True", "Serving")
    else:
        serving = Condition("Available", "False", "NothingServes", ready.message)
    return status, [Condition("Accepted", "True", "Accepted"), serving, ready]


def _ready(
    spec: FunctionSpec,
    deployment: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    now: datetime,
    config_map: Mapping[str, Any] | None,
) -> Condition:
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
        if not _is_ready(pod) and (problem := problem_of(spec, pod, config_map, now)) is not None:
            of_other_version = any(_is_ready(other) and _version_of(other) != _version_of(pod) for other in pods)
            return problem.condition(other_serves=of_other_version)
    if (refused := condition_of(deployment, "ReplicaFailure")).get("status") == "True":
        return Problem("PodsRefused", refusal_of(refused.get("message", ""))).condition(
            other_serves=ready > 0 and updated < wanted
        )
    slow = next(filter(None, (slow_start_of(pod, now) for pod in newest_first)), "")
    if condition_of(deployment, "Progressing").get("reason") == "ProgressDeadlineExceeded":
        way_out = f"`kubectl describe pod -n {metadata['namespace']} -l {FUNCTION_LABEL}={metadata['name']}` says more"
        message = f"{slow or 'it answers no /healthz'}; {way_out}"
        return Problem("NotReady", message).condition(other_serves=ready > 0 and updated < replicas)
    if updated < wanted or updated < replicas:
        return Condition("Ready", "False", "RollingOut", slow or "the new version starts")
    return Condition("Ready", "False", "Starting", slow or "replicas start")


def _is_ready(pod: Mapping[str, Any]) -> bool:
    return condition_of(pod, "Ready").get("status") == "True"


def _version_of(pod: Mapping[str, Any]) -> Any:
    return pod["metadata"].get("labels", {}).get(_HASH_LABEL)
