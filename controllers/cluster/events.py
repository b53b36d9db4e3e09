"""Kubernetes Events: what `kubectl describe` shows of an object's past."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from controllers.cluster.api import Api, Object, Refused, path_of

log = logging.getLogger(__name__)

_MOST_CHARACTERS = 1024  # the API server's limit of a message
_PASSING = frozenset({"Starting", "RollingOut", "Suspended"})  # nobody has to do anything about these


@dataclass(frozen=True)
class Happened:
    """Something worth an Event."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def happened_between(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Happened | None:
    """What a change of conditions tells: that the object became ready, or is not for another reason than before."""
    was, now = _ready(before), _ready(after)
    if now is None or (was is not None and (was["status"], was["reason"]) == (now["status"], now["reason"])):
        return None
    if now["status"] == "True":
        return Happened("Normal", "Ready", "it is ready") if was is not None else None
    kind: Literal["Normal", "Warning"] = "Normal" if now["reason"] in _PASSING else "Warning"
    return Happened(kind, now["reason"], now.get("message") or now["reason"])


class Events:
    """Writes them. That one cannot be written stops nothing: what it says is in the status, too."""

    def __init__(self, api: Api, reporter: str) -> None:
        self._api = api
        self._reporter = reporter

    async def record(self, about: Object, happened: Happened) -> None:
        """The same one again is counted, not written twice: its name is made of what it says."""
        metadata = about["metadata"]
        message = happened.message[:_MOST_CHARACTERS]
        digest = hashlib.sha256(f"{metadata['uid']}/{happened.reason}/{message}".encode()).hexdigest()[:16]
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
            "type": happened.type,
            "reason": happened.reason,
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
                await self._count(event, now)
        except (Refused, OSError, TimeoutError) as error:
            log.warning("event not recorded", extra={"about": metadata["name"], "problem": str(error) or repr(error)})

    async def _count(self, event: Object, now: str) -> None:
        metadata = event["metadata"]
        path = path_of("v1", "Event", metadata["namespace"], metadata["name"])
        found = await self._api.request("GET", path)
        change = {"count": found.get("count", 1) + 1, "lastTimestamp": now}
        await self._api.request("PATCH", path, body=change, content_type="application/merge-patch+json")


def _ready(conditions: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((found for found in conditions if found["type"] == "Ready"), None)
