"""Kubernetes Events, which `kubectl describe` lists below an object."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from controllers.cluster.api import Api, Object, Refused, path_of

log = logging.getLogger(__name__)

_MAX_MESSAGE_CHARACTERS = 1024  # the API server's limit
_USUAL_NOTES = frozenset({"Connected", "AtMostOnce", "Completed", "Flowing"})  # it runs as it was asked to
_ACCEPTED_OTHERWISE: Mapping[str, Literal["Normal", "Warning"]] = {
    "ChangedByWebhook": "Normal",  # the owner of the cluster wants it
    "TwoInstallations": "Warning",
    "UnknownFields": "Warning",
}
_NORMAL_REASONS = frozenset({"Starting", "RollingOut", "Suspended"})  # these need no action


@dataclass(frozen=True)
class NewEvent:
    """The content of an Event to record."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def event_for_transition(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> NewEvent | None:
    """The Event for a transition of the condition Ready: it became True, or has another reason for not being True."""
    was, now = _condition(before, "Ready"), _condition(after, "Ready")
    if now is None or (was is not None and (was["status"], was["reason"]) == (now["status"], now["reason"])):
        return None
    if now["status"] == "True":
        return NewEvent("Normal", "Ready", "it is ready") if was is not None else None
    kind: Literal["Normal", "Warning"] = "Normal" if now["reason"] in _NORMAL_REASONS else "Warning"
    return NewEvent(kind, now["reason"], now.get("message") or now["reason"])


def event_for_note(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> NewEvent | None:
    """The Event for a source that is connected and has something else to say: about lost events, or a moved place."""
    return _event_for_note("Connected", before, after)


def event_for_failures(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> NewEvent | None:
    """The Event for a trigger of which every attempt fails, though its events can be delivered still."""
    return _event_for_note("Delivering", before, after)


def _event_for_note(
    name: str, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> NewEvent | None:
    was, now = _condition(before, name), _condition(after, name)
    if now is None or now["status"] != "True" or now["reason"] in _USUAL_NOTES:
        return None
    if was is not None and (was["status"], was["reason"]) == ("True", now["reason"]):
        return None
    return NewEvent("Warning", now["reason"], now.get("message") or now["reason"])


def event_for_acceptance(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> NewEvent | None:
    """The Event for a spec that is accepted, and runs otherwise than its author expects."""
    was, now = _condition(before, "Accepted"), _condition(after, "Accepted")
    if now is None or now["status"] != "True" or now["reason"] not in _ACCEPTED_OTHERWISE:
        return None
    if was is not None and (was["reason"], was.get("message")) == (now["reason"], now.get("message")):
        return None
    return NewEvent(_ACCEPTED_OTHERWISE[now["reason"]], now["reason"], now["message"])


class EventRecorder:
    """Records Events. A failure to record is only logged, because the status has the same information."""

    def __init__(self, api: Api, reporter: str) -> None:
        self._api = api
        self._reporter = reporter

    async def record(self, about: Object, new: NewEvent) -> None:
        """Creates the Event, or increments the count of an equal one: the name contains a digest of the content."""
        metadata = about["metadata"]
        message = new.message[:_MAX_MESSAGE_CHARACTERS]
        digest = hashlib.sha256(f"{metadata['uid']}/{new.reason}/{message}".encode()).hexdigest()[:16]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name'][:200]}.{digest}", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": new.type,
            "reason": new.reason,
            "message": message,
            "source": {"component": self._reporter},
            "reportingComponent": self._reporter,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            try:
                await self._api.create(event)
            except Refused as refused:
                if refused.status != 409:
                    raise
                await self._increment_count(event, now)
        except (Refused, OSError, TimeoutError) as error:
            log.warning("event not recorded", extra={"about": metadata["name"], "problem": str(error) or repr(error)})

    async def _increment_count(self, event: Object, now: str) -> None:
        metadata = event["metadata"]
        path = path_of("v1", "Event", metadata["namespace"], metadata["name"])
        found = await self._api.request("GET", path)
        change = {"count": found.get("count", 1) + 1, "lastTimestamp": now}
        await self._api.request("PATCH", path, body=change, content_type="application/merge-patch+json")


def _condition(conditions: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    return next((found for found in conditions if found["type"] == kind), None)
