"""What keeps a function's pod from being ready, in words: place, problem, way out. Pure.

What is told stays the same while the trouble does, however often a kubelet tries again: a status is written once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from controllers.cluster.conditions import Condition
from controllers.functions.resource import FunctionSpec, Variable

_PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_NOT_MADE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_PATIENCE = timedelta(seconds=30)  # what usually takes a moment is told when it takes longer
_LAST_LINES = 5
_MOST_CHARACTERS = 600
_NOT_STARTED = 3  # what the runtime ends with when the function's code or its startup hook failed
_KILLED = 137

_BACK_OFF = re.compile(r'^Back-off pulling image "[^"]*": (ErrImagePull: )?')
_NOT_FOUND = re.compile(r'(?i)\b(secret|configmap) "([^"]+)" not found')
_NO_KEY = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) [^/\s]+/(\S+)")
_NO_WORDS = "Error on reading termination message from logs"  # the kubelet's own, when a log is not there yet
_NO_INDEX = ("NewConnectionError", "ConnectTimeoutError", "SSLError", "name resolution")
_SAID_BY_OTHERS = ("Traceback (most recent call last)", "runtime: the function does not start")
_FIELDS = {  # the runtime's contract, and the fields of a Function that it comes from
    "FUNC_HANDLER": "spec.handler",
    "MOD_NAME": "spec.handler",
    "FUNC_STARTUP": "spec.startup",
    "FUNC_SHUTDOWN": "spec.shutdown",
    "FUNC_CONCURRENCY": "spec.concurrency",
}


@dataclass(frozen=True)
class Problem:
    """A word, and for a person what happened and what to do."""

    reason: str
    message: str

    def condition(self, *, other_serves: bool) -> Condition:
        if not other_serves:
            return Condition("Ready", "False", self.reason, self.message)
        message = f"the old version still serves; the new one does not start: {self.reason}: {self.message}"
        return Condition("Ready", "False", "RolloutStuck", message)


def problem_of(
    spec: FunctionSpec, pod: Mapping[str, Any], config_map: Mapping[str, Any] | None, now: datetime
) -> Problem | None:
    """None: nothing is wrong that can be told as yet. `config_map`: that of spec.source.configMap, if it is there."""
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled.get("reason") == "Unschedulable":
        return _unschedulable(scheduled.get("message", ""))
    if condition_of(pod, "PodReadyToStartContainers").get("status") == "False" and not _has_started(pod):
        return _source_problem(spec, pod, config_map) or _not_prepared(pod, now)
    for container in _containers_of(pod):
        waiting = container.get("state", {}).get("waiting", {})
        reason, said = waiting.get("reason", ""), waiting.get("message") or ""
        if reason in _PULLING:
            return Problem(
                "ImagePullBackOff",
                f"the image {container.get('image', '')} cannot be pulled: {_tail(_BACK_OFF.sub('', said))}; "
                "check its name, and podTemplate.spec.imagePullSecrets",
            )
        if reason in _NOT_MADE:
            return Problem(reason, _not_made(spec, pod, container["name"], said))
        if (ended := _ended(container)) is not None:
            return _failure_of(spec, pod, container["name"], ended)
    return None


def slow_start_of(pod: Mapping[str, Any], now: datetime) -> str:
    """What to tell of a function that runs and does not answer: not of a fault as yet. Empty for others."""
    for container in pod.get("status", {}).get("containerStatuses", []):
        running = container.get("state", {}).get("running")
        if container["name"] != "function" or running is None or container.get("started"):
            continue
        since = running.get("startedAt", "")
        if since and now - datetime.fromisoformat(since) > _PATIENCE:
            return (
                f"it runs since {since} and has not answered /healthz yet: its module is being imported, or its "
                f"startup hook runs; `kubectl logs {_target(pod)}` shows its words"
            )
    return ""


def refusal_of(message: str) -> str:
    """What a Deployment says of pods that it may not make."""
    place = "spec.podTemplate.spec.serviceAccountName: " if "serviceaccount" in message else ""
    return f"{place}no pod can be made: {message}"


def condition_of(found: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """That condition of a pod or Deployment, or an empty one."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _unschedulable(message: str) -> Problem:
    reasons, _, _ = message.partition(". ")  # what follows is about preemption
    if "Insufficient" in reasons:
        way_out = "spec.resources.requests asks for more than is free: lower it, or add nodes"
    else:
        way_out = "see nodeSelector, affinity and tolerations in spec.podTemplate, and the taints of the nodes"
    return Problem("Unschedulable", f"no node takes the pod: {reasons}; {way_out}")


def _source_problem(spec: FunctionSpec, pod: Mapping[str, Any], found: Mapping[str, Any] | None) -> Problem | None:
    source = spec.source.config_map
    if source is None:
        return None
    if found is None:
        text = f"spec.source.configMap: no ConfigMap {source.name!r} in namespace {_namespace(pod)!r}; create it"
        return Problem("SourceMissing", f"{text}: the pod starts by itself then")
    keys = sorted({*(found.get("data") or {}), *(found.get("binaryData") or {})})
    if source.key not in keys:
        text = f"spec.source.configMap.key: ConfigMap {source.name!r} has no {source.key!r}"
        return Problem("SourceMissing", f"{text}; it has: {', '.join(keys[:20]) or 'nothing'}")
    return None


def _not_prepared(pod: Mapping[str, Any], now: datetime) -> Problem | None:
    since = condition_of(pod, "PodReadyToStartContainers").get("lastTransitionTime", "")
    if not since or now - datetime.fromisoformat(since) <= _PATIENCE:
        return None
    return Problem(
        "NotPrepared",
        f"the pod waits for its volumes or its network since {since}; does every Secret, ConfigMap and claim exist "
        f"that spec.podTemplate names? `kubectl describe pod {_target(pod)}` says what is missing",
    )


def _not_made(spec: FunctionSpec, pod: Mapping[str, Any], container: str, said: str) -> str:
    if (missing := _NOT_FOUND.search(said)) is not None:
        kind = {"secret": "Secret", "configmap": "ConfigMap"}[missing[1].lower()]
        place = _place_of(spec, kind, missing[2])
        way_out = f"create it in namespace {_namespace(pod)!r}: the pod starts by itself then"
        return f"{place}: there is no {kind} {missing[2]!r}; {way_out}"
    if (missing := _NO_KEY.search(said)) is not None:
        key, kind, name = missing.groups()
        return f"{_place_of(spec, kind, name, key)}: {kind} {name!r} has no key {key!r}; add it, or name another"
    text = f"container {container}: {_tail(said)}"
    if "non-root" in said or "runAsNonRoot" in said:
        return (
            f"spec.podTemplate: {text}; functions do not run as root: leave runAsUser out, or say runAsNonRoot: false"
        )
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


def _failure_of(spec: FunctionSpec, pod: Mapping[str, Any], container: str, ended: Mapping[str, Any]) -> Problem:
    code, message = ended.get("exitCode"), ended.get("message") or ""
    if message.startswith(_NO_WORDS):
        message = ""
    more = f"`kubectl logs {_target(pod)} -c {container} --previous` may say more"
    if ended.get("reason") == "OOMKilled":
        limit = (spec.resources.get("limits") or {}).get("memory", "none")
        text = f"container {container} used more memory than it may; resources.limits.memory: {limit}: raise it"
        return Problem("OutOfMemory", text)
    said = _tail(message)
    match container:
        case "dependencies":
            return Problem(
                "DependenciesFailed", f"spec.dependencies: {_pip_said(message) or f'exit code {code}; {more}'}"
            )
        case "fetch":
            return Problem("FetchFailed", said or f"spec.source.url: not fetched: exit code {code}; {more}")
        case "function":
            words = f"its last words: {_in_fields(said)}" if said else more
            if code == _NOT_STARTED and said:
                return Problem("CrashLoopBackOff", f"the function does not start; {words}")
            how = "was killed, as it is when it does not answer /healthz" if code == _KILLED else f"ended with {code}"
            return Problem("CrashLoopBackOff", f"the function {how}; {words}")
        case _:
            return Problem("CrashLoopBackOff", f"container {container} ended with {code}: {said or more}")


def _pip_said(message: str) -> str:
    """What pip found wrong: its errors where it named any, and whether it could ask anyone at all."""
    errors = [line.strip() for line in message.splitlines() if line.strip().startswith("ERROR:")]
    said = _tail("\n".join(errors) or message)
    if said and any(sign in message for sign in _NO_INDEX):
        return f"the package index was not reached; see functions.packageIndex in the chart's values: {said}"
    return f"not installed: {said}" if said else ""


def _in_fields(said: str) -> str:
    for variable, field in _FIELDS.items():
        said = said.replace(f"{variable}:", f"{field}:")
    return said


def _ended(container: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How it failed, now or the last time; None if it did not."""
    for state in (container.get("state", {}), container.get("lastState", {})):
        if "terminated" in state:
            ended: Mapping[str, Any] = state["terminated"]
            return ended if ended.get("exitCode") != 0 else None
    return None


def _has_started(pod: Mapping[str, Any]) -> bool:
    """Whether any container ever did: a pod's sandbox may go before the pod does."""
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
    """The last lines that say something, in one."""
    lines = [
        line.strip() for line in text.splitlines()
        if line.strip(" \t^~") and not line.startswith(_SAID_BY_OTHERS)  # arrows point at nothing in one line
    ]  # fmt: skip
    return " | ".join(lines[-_LAST_LINES:])[-_MOST_CHARACTERS:]
