"""Decides which installation runs a trigger or Function, where several watch its namespace. The others give way.

Installations know each other by the status of the resource only: they have no rights in each other's namespaces. The
status names the one that runs it, the owner. Another one asks now and then, in the status, whether the owner still
runs. The owner answers, and its condition names both. An owner that does not answer is gone, and the other one takes
over. A resource that nobody else asks for causes no writes beside the first. Of several contenders, one asks at a time.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from controllers.cluster.api import Api, Object, Refused, path_of
from controllers.cluster.conditions import Condition

log = logging.getLogger(__name__)

REASON = "TwoInstallations"
ASK_SECONDS = 60.0  # from one question to the next
ANSWER_SECONDS = 45.0  # an owner that runs answers within seconds, and a replica takes over within fifteen
FORGET_SECONDS = 180.0  # one that asks no more is gone
_TURN_SECONDS = ASK_SECONDS + ANSWER_SECONDS  # by then a contender that runs has asked again, or has taken over
_LOOK_SECONDS = 2.0
_CONCURRENT_REQUESTS = 16


def installation_in_status(resource: Mapping[str, Any]) -> Mapping[str, Any]:
    """The field `installation` of the status: name, contender, asked, answered."""
    found: Mapping[str, Any] = (resource.get("status") or {}).get("installation") or {}
    return found


class Installations:
    """`own` is the name of this installation; empty: it knows no others. `now` is a monotonic clock."""

    def __init__(self, api: Api, own: str, now: Callable[[], float]) -> None:
        self._api = api
        self._own = own
        self._now = now
        self._asked: dict[str, tuple[str, float]] = {}  # by uid: the question in the status, and when it came

    def other(self, resource: Mapping[str, Any]) -> str | None:
        """The other installation that runs this resource. None: this one does."""
        name = installation_in_status(resource).get("name")
        return name if self._own and name and name != self._own else None

    def rejection(self, other: str) -> tuple[str, str]:
        """Reason and message for this installation, which does not run the resource."""
        return REASON, f"the installation {other} runs it; {self._way_out(other)}"

    def fields(self, resource: Mapping[str, Any]) -> Object:
        """The fields of the status that the owner writes: its name, and the answer to a question."""
        if not self._own:
            return {}
        found = installation_in_status(resource)
        fields: Object = {"name": self._own}
        if found.get("contender"):
            fields["answered"] = found.get("asked")
            if self._age(resource) > FORGET_SECONDS:
                fields |= dict.fromkeys(("contender", "asked", "answered"))
        return {"installation": fields}

    def shown(self, resource: Mapping[str, Any], conditions: Iterable[Condition]) -> list[Condition]:
        """The conditions of the owner: they name an installation that gave way."""
        contender = installation_in_status(resource).get("contender") if self._own else None
        if not contender or self._age(resource) > FORGET_SECONDS:
            return list(conditions)
        message = f"the installation {contender} watches this namespace, too, and gave way; {self._way_out(contender)}"
        told = Condition("Accepted", "True", REASON, message)
        return [told if each.type == "Accepted" and each.status == "True" else each for each in conditions]

    async def contend(self, resources: Callable[[], Collection[Object]]) -> None:
        """Asks the owners of these resources whether they run, and takes over from those that are gone. Never ends.

        `resources` returns those that another installation owns, and that this replica would run.
        """
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._forget_old_questions()
            found = list(resources())
            for start in range(0, len(found), _CONCURRENT_REQUESTS):  # thousands of them, after a change of the name
                await asyncio.gather(*map(self._try_for, found[start : start + _CONCURRENT_REQUESTS]))

    async def _try_for(self, resource: Object) -> None:
        try:
            await self._contend_for(resource)
        except (Refused, OSError, TimeoutError) as error:
            log.warning("resource not asked for", extra={"resource": _text_of(resource), "problem": str(error)})

    async def _contend_for(self, resource: Object) -> None:
        found = installation_in_status(resource)
        is_mine = found.get("contender") == self._own
        is_answered = found.get("answered") == found.get("asked")
        age = self._age(resource)
        if is_mine and not is_answered and age > ANSWER_SECONDS:
            log.warning("takes over", extra={"resource": _text_of(resource), "from": found.get("name")})
            # The term is of the other installation's Lease, and says nothing about this one's
            installation = {"name": self._own, **dict.fromkeys(("contender", "asked", "answered"))}
            state = {"state": {"term": None}} if "state" in resource["status"] else {}
            # The watch may be late: the server refuses this if the owner has answered meanwhile
            await self.patch(resource, {"installation": installation, **state}, only_this_version=True)
        elif (is_mine and is_answered and age > ASK_SECONDS) or (
            not is_mine and (not found.get("contender") or age > _TURN_SECONDS)
        ):
            asked = datetime.now(UTC).isoformat()
            await self.patch(resource, {"installation": {"contender": self._own, "asked": asked}})

    def _age(self, resource: Mapping[str, Any]) -> float:
        """How many seconds ago this process first saw the question that stands in the status."""
        uid, asked = _uid_of(resource), installation_in_status(resource).get("asked")
        if not asked:
            return 0.0
        known = self._asked.get(uid)
        if known is None or known[0] != asked:
            known = self._asked[uid] = (asked, self._now())
        return self._now() - known[1]

    def _forget_old_questions(self) -> None:
        """Their resources may be gone. A question that still stands gets a new age."""
        now = self._now()
        self._asked = {uid: known for uid, known in self._asked.items() if now - known[1] < 2 * FORGET_SECONDS}

    async def patch(self, resource: Object, status: Object, *, only_this_version: bool = False) -> None:
        """Merges these fields into the status. Raises Refused, OSError and TimeoutError.

        With `only_this_version`, the server refuses it if the resource has changed since.
        """
        metadata = resource["metadata"]
        path = path_of(resource["apiVersion"], resource["kind"], metadata["namespace"], metadata["name"])
        names = ("uid", "resourceVersion") if only_this_version else ("uid",)
        body = {"metadata": {name: metadata[name] for name in names}, "status": status}
        await self._api.request("PATCH", f"{path}/status", body=body, content_type="application/merge-patch+json")

    def _way_out(self, other: str) -> str:
        return f"set watchNamespace of {self._own} and {other} to different namespaces, or remove one"


def _uid_of(resource: Mapping[str, Any]) -> str:
    uid: str = resource["metadata"]["uid"]
    return uid


def _text_of(resource: Mapping[str, Any]) -> str:
    metadata = resource["metadata"]
    return f"{resource['kind']} {metadata['namespace']}/{metadata['name']}"
