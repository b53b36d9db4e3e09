"""Computes the status of a Function from its Deployment and its pods. Pure."""

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
    """The URL of the function inside its cluster."""
    return f"http://{name}.{namespace}.svc:{PORT}"


def status_of(
    spec: FunctionSpec,
    deployment: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    now: datetime,
    config_map: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[Condition]]:
    """The status fields, and the conditions Accepted, Available and Ready.

    Available means that at least one replica serves, Ready that the newest version runs completely. `deployment` is the
    live object, `pods` are all pods of the function, `config_map` is the one of spec.source.configMap. `pods` and
    `config_map` are not needed while every replica is ready.
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
        # without the number of replicas, which would cause a write whenever a replica starts or ends
        serving = Condition("Available", "True", "Serving")
    else:
        serving = Condition("Available", "False", "NothingServes", ready.message)
    return status, [Condition("Accepted", "True", "Accepted"), serving, ready]


def invalid(message: str, reason: str = "Invalid") -> list[Condition]:
    """The conditions of a Function whose spec is not valid."""
    return [Condition("Accepted", "False", reason, message), Condition("Ready", "False", reason, message)]


def with_changes_of_others(
    conditions: Sequence[Condition], overridden: Sequence[str], contested: str
) -> list[Condition]:
    """The conditions, with the fields that are not as the Function says.

    An admission webhook changes the `overridden` ones, which the owner of the cluster wants: the function runs with
    them. Somebody changes the `contested` ones again and again, so that the function is not what its author asked for.
    """
    found = list(conditions)
    if overridden:
        message = f"{', '.join(overridden)}: an admission webhook of the cluster changes what the Function says"
        found = [
            Condition("Accepted", "True", "ChangedByWebhook", message) if each.reason == "Accepted" else each
            for each in found
        ]
    if contested:
        found = [each for each in found if each.type != "Ready"] + [Condition("Ready", "False", "Contested", contested)]
    return found


def _ready(
    spec: FunctionSpec,
    deployment: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    now: datetime,
    config_map: Mapping[str, Any] | None,
) -> Condition:
    counts, metadata = deployment.get("status", {}), deployment.get("metadata", {})
    if not metadata or counts.get("observedGeneration", 0) < metadata.get("generation", 0):
        return Condition("Ready", "False", "Starting", "Kubernetes has not observed the new Deployment yet")
    wanted = deployment.get("spec", {}).get("replicas", spec.scale.min)
    replicas, updated, ready = (counts.get(f"{kind}eplicas", 0) for kind in ("r", "updatedR", "readyR"))
    if updated == replicas and ready >= min(wanted, spec.scale.min):  # replicas that an autoscaler adds may still start
        return Condition("Ready", "True", "Ready")
    pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    newest_first = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    # A former version may crash until the newest one is ready: that is no problem of the rollout
    for pod in (found for found in newest_first if _version_of(found) == _version_of(newest_first[0])):
        if not _is_ready(pod) and (problem := problem_of(spec, pod, config_map, now)) is not None:
            old_serves = any(_is_ready(other) and _version_of(other) != _version_of(pod) for other in pods)
            return problem.condition(old_serves=old_serves)
    if (refused := condition_of(deployment, "ReplicaFailure")).get("status") == "True":
        return Problem("PodsRefused", refusal_of(refused.get("message", ""))).condition(
            old_serves=ready > 0 and updated < wanted
        )
    slow = next(filter(None, (slow_start_of(pod, now) for pod in newest_first)), "")
    if condition_of(deployment, "Progressing").get("reason") == "ProgressDeadlineExceeded":
        command = f"kubectl describe pod -n {metadata['namespace']} -l {FUNCTION_LABEL}={metadata['name']}"
        message = f"{slow or 'it does not answer /healthz'}; `{command}` shows more"
        return Problem("NotReady", message).condition(old_serves=ready > 0 and updated < replicas)
    if updated < wanted or updated < replicas:
        return Condition("Ready", "False", "RollingOut", slow or "the new version is starting")
    return Condition("Ready", "False", "Starting", slow or "replicas are starting")


def _is_ready(pod: Mapping[str, Any]) -> bool:
    return condition_of(pod, "Ready").get("status") == "True"


def _version_of(pod: Mapping[str, Any]) -> Any:
    return pod["metadata"].get("labels", {}).get(_HASH_LABEL)
