"""Explains why a function's pod is not ready: place, problem, way out. Pure.

The text of a problem stays the same while the kubelet retries, so that the status is written once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from controllers.cluster.conditions import Condition
from controllers.functions.resource import FunctionSpec, Variable

_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CREATE_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_PATIENCE = timedelta(seconds=30)  # the usual time of a start; only a longer one is a problem
_LAST_LINES = 5
_MAX_CHARACTERS = 600
_NOT_STARTED = 3  # the runtime's exit code after a failure of the function's module or startup hook
_KILLED = 137  # the exit code after SIGKILL

_BACK_OFF = re.compile(r'^Back-off pulling image "[^"]*": (ErrImagePull: )?')
_NOT_FOUND = re.compile(r'(?i)\b(secret|configmap) "([^"]+)" not found')
# In the text of a container runtime that never reached the registry
REGISTRY_UNREACHABLE = re.compile(r"dial tcp|no such host|i/o timeout|connection refused|TLS handshake timeout")
_NO_KEY = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) [^/\s]+/(\S+)")
_NO_MESSAGE = "Error on reading termination message from logs"  # the kubelet's, if the log does not exist yet
_UNREACHABLE = ("NewConnectionError", "ConnectTimeoutError", "SSLError", "name resolution")
_SKIPPED_LINES = ("Traceback (most recent call last)", "runtime: the function does not start")
_FIELDS = {  # the variables of the runtime contract, and the Function's fields behind them
    "FUNC_HANDLER": "spec.handler",
    "MOD_NAME": "spec.handler",
    "FUNC_STARTUP": "spec.startup",
    "FUNC_SHUTDOWN": "spec.shutdown",
    "FUNC_CONCURRENCY": "spec.concurrency",
}


@dataclass(frozen=True)
class Problem:
    """The reason and the message of the condition."""

    reason: str
    message: str

    def condition(self, *, old_serves: bool) -> Condition:
        if not old_serves:
            return Condition("Ready", "False", self.reason, self.message)
        message = f"the old version still serves; the new one does not start: {self.reason}: {self.message}"
        return Condition("Ready", "False", "RolloutStuck", message)


def problem_of(
    spec: FunctionSpec, pod: Mapping[str, Any], config_map: Mapping[str, Any] | None, now: datetime
) -> Problem | None:
    """The problem of a pod, None if it shows none yet. `config_map` is that of spec.source.configMap, if it exists."""
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled.get("reason") == "Unschedulable":
        return _unschedulable(scheduled.get("message", ""))
    if condition_of(pod, "PodReadyToStartContainers").get("status") == "False" and not _has_started(pod):
        return _source_problem(spec, pod, config_map) or _volume_problem(pod, now)
    for container in _containers_of(pod):
        waiting = container.get("state", {}).get("waiting", {})
        reason, said = waiting.get("reason", ""), waiting.get("message") or ""
        if reason in _PULL_REASONS:
            is_reached = REGISTRY_UNREACHABLE.search(said) is None
            check = (
                "its name and spec.podTemplate.spec.imagePullSecrets" if is_reached else "whether the node reaches it"
            )
            return Problem(
                "ImagePullBackOff",
                f"the image {container.get('image', '')} cannot be pulled: {_tail(_BACK_OFF.sub('', said))}; "
                f"check {check}",
            )
        if reason in _CREATE_REASONS:
            return Problem(reason, _create_problem(spec, pod, container["name"], said))
        if (terminated := _terminated(container)) is not None:
            return _failure_of(spec, pod, container["name"], terminated)
    return None


def slow_start_of(pod: Mapping[str, Any], now: datetime) -> str:
    """A message for a function that runs but has not answered for a while, which may be normal. Otherwise empty."""
    for container in pod.get("status", {}).get("containerStatuses", []):
        running = container.get("state", {}).get("running")
        if container["name"] != "function" or running is None or container.get("started"):
            continue
        since = running.get("startedAt", "")
        if since and now - datetime.fromisoformat(since) > _PATIENCE:
            return (
                f"it has run since {since} and has not answered /healthz yet: it is importing its module or running "
                f"its startup hook; `kubectl logs {_target(pod)}` shows its output"
            )
    return ""


def refusal_of(message: str) -> str:
    """A message for a Deployment that may not create pods."""
    place = "spec.podTemplate.spec.serviceAccountName: " if "serviceaccount" in message else ""
    return f"{place}no pod can be created: {message}"


def condition_of(found: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The condition of this type of a pod or Deployment, or an empty one."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _unschedulable(message: str) -> Problem:
    reasons, _, _ = message.partition(". ")  # the rest is about preemption
    if "Insufficient" in reasons:
        way_out = "lower spec.resources.requests, or add nodes"
    else:
        way_out = "check nodeSelector, affinity and tolerations in spec.podTemplate, and the taints of the nodes"
    return Problem("Unschedulable", f"no node can run the pod: {reasons}; {way_out}")


def _source_problem(spec: FunctionSpec, pod: Mapping[str, Any], found: Mapping[str, Any] | None) -> Problem | None:
    source = spec.source.config_map
    if source is None:
        return None
    if found is None:
        text = f"spec.source.configMap: there is no ConfigMap {source.name!r} in namespace {_namespace(pod)!r}"
        return Problem("SourceMissing", f"{text}; create it, and the pod starts")
    keys = sorted({*(found.get("data") or {}), *(found.get("binaryData") or {})})
    if source.key not in keys:
        text = f"spec.source.configMap.key: ConfigMap {source.name!r} has no key {source.key!r}"
        return Problem("SourceMissing", f"{text}; its keys: {', '.join(keys[:20]) or 'none'}")
    return None


def _volume_problem(pod: Mapping[str, Any], now: datetime) -> Problem | None:
    since = condition_of(pod, "PodReadyToStartContainers").get("lastTransitionTime", "")
    if not since or now - datetime.fromisoformat(since) <= _PATIENCE:
        return None
    return Problem(
        "NotPrepared",
        f"the pod has waited for its volumes or its network since {since}; check that each Secret, ConfigMap and "
        f"PersistentVolumeClaim in spec.podTemplate exists; `kubectl describe pod {_target(pod)}` shows more",
    )


def _create_problem(spec: FunctionSpec, pod: Mapping[str, Any], container: str, said: str) -> str:
    if (missing := _NOT_FOUND.search(said)) is not None:
        kind = {"secret": "Secret", "configmap": "ConfigMap"}[missing[1].lower()]
        place = _place_of(spec, kind, missing[2])
        way_out = f"create it in namespace {_namespace(pod)!r}, and the pod starts"
        return f"{place}: there is no {kind} {missing[2]!r}; {way_out}"
    if (missing := _NO_KEY.search(said)) is not None:
        key, kind, name = missing.groups()
        return (
            f"{_place_of(spec, kind, name, key)}: {kind} {name!r} has no key {key!r}; add the key, or name another one"
        )
    text = f"container {container}: {_tail(said)}"
    if "non-root" in said or "runAsNonRoot" in said:
        way_out = "functions do not run as root: remove runAsUser, or set runAsNonRoot: false"
        return f"spec.podTemplate: {text}; {way_out}"
    return text


def _place_of(spec: FunctionSpec, kind: str, name: str, key: str = "") -> str:
    """The field that names this Secret or ConfigMap."""
    field = {"Secret": "secretKeyRef", "ConfigMap": "configMapKeyRef"}[kind]
    for index, variable in enumerate(spec.env):
        ref = _ref_of(variable, kind)
        if ref is not None and ref.name == name and key in ("", ref.key):
            return f"spec.env[{index}].valueFrom.{field}"
    whole = {"Secret": "secretRef", "ConfigMap": "configMapRef"}[kind]
    for index, source in enumerate(spec.env_from):
        if (source.get(whole) or {}).get("name") == name:
            return f"spec.envFrom[{index}].{whole}"
    return "spec.podTemplate"


def _ref_of(variable: Variable, kind: str) -> Any:
    if variable.value_from is None:
        return None
    return variable.value_from.secret_key_ref if kind == "Secret" else variable.value_from.config_map_key_ref


def _failure_of(spec: FunctionSpec, pod: Mapping[str, Any], container: str, terminated: Mapping[str, Any]) -> Problem:
    code, message = terminated.get("exitCode"), terminated.get("message") or ""
    if message.startswith(_NO_MESSAGE):
        message = ""
    more = f"`kubectl logs {_target(pod)} -c {container} --previous` may show more"
    if terminated.get("reason") == "OOMKilled":
        limit = (spec.resources.get("limits") or {}).get("memory", "none")
        text = f"container {container} ran out of memory; raise spec.resources.limits.memory, which is {limit}"
        return Problem("OutOfMemory", text)
    said = _tail(message)
    match container:
        case "dependencies":
            return Problem(
                "DependenciesFailed", f"spec.dependencies: {_pip_problem(message) or f'exit code {code}; {more}'}"
            )
        case "fetch":
            return Problem("FetchFailed", said or f"spec.source.url: the download ended with exit code {code}; {more}")
        case "function":
            detail = f"the last lines of its log: {with_field_names(said)}" if said else more
            if code == _NOT_STARTED and said:
                return Problem("CrashLoopBackOff", f"the function does not start; {detail}")
            killed = "was killed, as happens when it does not answer /healthz"
            end = killed if code == _KILLED else f"ended with exit code {code}"
            return Problem("CrashLoopBackOff", f"the function {end}; {detail}")
        case _:
            return Problem("CrashLoopBackOff", f"container {container} ended with exit code {code}: {said or more}")


def _pip_problem(message: str) -> str:
    """The errors that pip reported, or else the last lines of its output. Empty if there is no output."""
    errors = [line.strip() for line in message.splitlines() if line.strip().startswith("ERROR:")]
    said = _tail("\n".join(errors) or message)
    if said and any(sign in message for sign in _UNREACHABLE):
        return f"the package index cannot be reached; check functions.packageIndex in the chart's values: {said}"
    return f"not installed: {said}" if said else ""


def with_field_names(said: str) -> str:
    """The text with the Function's fields in place of the runtime's variables."""
    for variable, field in _FIELDS.items():
        said = said.replace(f"{variable}:", f"{field}:")
    return said


def _terminated(container: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The present or last terminated state of a container that failed, None if it did not fail."""
    for state in (container.get("state", {}), container.get("lastState", {})):
        if "terminated" in state:
            terminated: Mapping[str, Any] = state["terminated"]
            return terminated if terminated.get("exitCode") != 0 else None
    return None


def _has_started(pod: Mapping[str, Any]) -> bool:
    """Whether any container has started. The pod's sandbox may be gone before the pod itself."""
    return any({"running", "terminated"} & set(container.get("state", {})) for container in _containers_of(pod))


def _containers_of(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses", [])
    yield from status.get("containerStatuses", [])


def _namespace(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"].get("namespace", ""))


def _target(pod: Mapping[str, Any]) -> str:
    return f"{pod['metadata'].get('name', '')} -n {_namespace(pod)}"


def _tail(text: str) -> str:
    """The last meaningful lines, joined into one."""
    lines = [
        line.strip() for line in text.splitlines()
        if line.strip(" \t^~") and not line.startswith(_SKIPPED_LINES)  # skips the markers below source lines, too
    ]  # fmt: skip
    return " | ".join(lines[-_LAST_LINES:])[-_MAX_CHARACTERS:]
