"""The step that helps with a Function on a cluster now, for each reason of its conditions. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from controllers.functions.pod_problems import REGISTRY_UNREACHABLE

_LOGS = "kubeirq logs Function/{name}"
_DESCRIBE_PODS = "kubectl describe pods --selector kubeirq.dev/function={name}"
# `test_steps.py` finds a reason that is missing here and in `_WITHOUT_A_STEP`
_NEXT_OF_REASON = {
    "Invalid": "correct the spec as the message says",
    "UnknownField": "upgrade kubeirq, or take the field back; the message names an annotation if it restricts nothing",
    "UnknownFields": "upgrade kubeirq, or take the fields back",
    "UnknownValue": "upgrade kubeirq, or take the value back",
    "TwoInstallations": "set watchNamespace of both installations, which the message names, or remove one",
    "ChangedByWebhook": "nothing, if the cluster's policy is meant; else ask who owns its mutating webhooks",
    "Contested": "find who changes the object that the message names: kubectl get --show-managed-fields",
    "Refused": "correct what the API server's message names",
    "NameTaken": "rename the Function, or delete the object that the message names",
    "SourceMissing": "create the object that the message names; the Function then goes on by itself",
    "ImagePullBackOff": "correct spec.image or the chart's images, or the pull secrets, as the message says",
    "ErrImagePull": "correct spec.image or the chart's images, or the pull secrets, as the message says",
    "InvalidImageName": "correct spec.image",
    "CreateContainerConfigError": "create the Secret, ConfigMap or key that the message names",
    "CrashLoopBackOff": _LOGS,
    "OutOfMemory": "raise spec.resources.limits.memory, or let the function hold less; " + _LOGS,
    "DependenciesFailed": "correct spec.dependencies as the message says, or the chart's functions.packageIndex",
    "FetchFailed": "correct spec.source.url, sha256 or authorization, as the message says",
    "Unschedulable": "lower spec.resources.requests, or give the cluster a node that fits; " + _DESCRIBE_PODS,
    "PodsRefused": "change spec.resources, the quota or the policy that the message names",
    "NotPrepared": _DESCRIBE_PODS,
    "NotReady": _LOGS,
    "RolloutStuck": "mend the new version, as the message says, and deploy it; the old one serves. " + _LOGS,
}
_QUOTA_OF_PODS = re.compile(r"exceeded quota: .*requested: (?:count/)?pods=")
_MORE_PODS = "raise the quota's number of pods, or remove pods that use it: kubectl get resourcequotas,pods"
_REACH_THE_REGISTRY = "look at the DNS and the network of the node: it does not reach the image's registry"
_WITHOUT_A_STEP = frozenset({"Starting", "RollingOut", "NothingServes"})  # Ready has the reason of the last


def function_steps(view: Mapping[str, Any], has_events: bool) -> Sequence[str]:
    """The steps for the conditions of a Function; where none helps and something is wrong, its logs."""
    found = [_step(one) for one in view["conditions"] if one["reason"] in _NEXT_OF_REASON]
    steps = [step.format(name=view["name"]) for step in found]
    if has_events or (not view["ready"] and not steps):
        steps.append(_LOGS.format(name=view["name"]))
    return list(dict.fromkeys(steps))


def _step(condition: Mapping[str, Any]) -> str:
    """The step for this condition: its message may name a closer cause than its reason."""
    reason, message = condition["reason"], condition.get("message") or ""
    if reason == "PodsRefused" and _QUOTA_OF_PODS.search(message):
        return _MORE_PODS
    if REGISTRY_UNREACHABLE.search(message) and "cannot be pulled" in message:
        return _REACH_THE_REGISTRY + (". The old version serves" if reason == "RolloutStuck" else "")
    return _NEXT_OF_REASON[reason]
