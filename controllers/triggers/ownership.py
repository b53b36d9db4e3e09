"""Pure: which trigger has what only one can have: of several that claim it the one that has served it for longest, then
the oldest. The same in every replica, since it is in the triggers' status.

Across namespaces a route is claimed with all that it matches: a more specific one of a younger trigger would take
requests that are the older one's. Within a namespace the more specific route has them, as the gateway has it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trigger_sources.http.routes import RouteIndex, takes_from
from trigger_sources.http_requests import Route
from trigger_sources.source import TriggerSource

Key = tuple[str, str, str]  # kind, namespace, name
Age = tuple[str, str, str, str]

_NOT_YET = "~"  # after every time


@dataclass(frozen=True, slots=True)
class _Claimant:
    age: Age
    claims: frozenset[str]
    told: str  # all of them
    route: Route | None


class Claims:
    """What is known of them. Noting and forgetting gives the triggers that may have or lose something by it."""

    def __init__(self) -> None:
        self._claimants: dict[Key, _Claimant] = {}
        self._by_claim: dict[str, set[Key]] = {}
        self._routes: RouteIndex[Key] = RouteIndex()

    def note(self, key: Key, trigger: Mapping[str, Any], spec: TriggerSource | None) -> set[Key]:
        """The trigger is there, and claims this. `spec` None: nothing."""
        concerned = self.forget(key)
        if spec is None:
            return concerned
        claims = spec.claims(key[2])
        told = ", ".join(sorted(claims))
        found = _Claimant(age_of(trigger, told), claims, told, spec.route(key[2]))
        self._claimants[key] = found
        for claim in found.claims:
            self._by_claim.setdefault(claim, set()).add(key)
        if found.route is not None:
            self._routes.add(found.route, key)
        return concerned | self._concerned(key, found)

    def forget(self, key: Key) -> set[Key]:
        """The trigger is gone."""
        found = self._claimants.pop(key, None)
        if found is None:
            return set()
        concerned = self._concerned(key, found)
        for claim in found.claims:
            self._by_claim[claim].discard(key)
            if not self._by_claim[claim]:
                del self._by_claim[claim]
        if found.route is not None:
            self._routes.remove(found.route)
        return concerned

    def lost_to(self, key: Key) -> tuple[str, Key] | None:
        """What an older trigger has of that which this one claims, in words, and which; None: it has all of it."""
        mine = self._claimants[key]
        for claim in sorted(mine.claims):
            first = min(self._by_claim[claim], key=lambda other: self._claimants[other].age)
            if first != key:
                return claim, first
        older = [
            (self._claimants[other].age, other, route)
            for other, route in self._elsewhere(key, mine)
            if self._claimants[other].age < mine.age and mine.route is not None and takes_from(mine.route, route)
        ]
        if not older:
            return None
        _, first, route = min(older, key=lambda found: found[:2])
        return f"some of {route.host or ''}{route.path}", first

    def of(self, key: Key) -> str:
        """What the trigger claims, in words; nothing where it claims nothing or is not known."""
        found = self._claimants.get(key)
        return "" if found is None else found.told

    def _concerned(self, key: Key, found: _Claimant) -> set[Key]:
        same = {other for claim in found.claims for other in self._by_claim[claim]}
        return same | {other for other, _ in self._elsewhere(key, found) if self._claimants[other].age > found.age}

    def _elsewhere(self, key: Key, claimant: _Claimant) -> Iterator[tuple[Key, Route]]:
        """The routes of other namespaces that may match what this one matches."""
        if claimant.route is not None:
            for route, other in self._routes.overlapping(claimant.route):
                if other[1] != key[1]:
                    yield other, route


def age_of(trigger: Mapping[str, Any], claims: str) -> Age:
    """Sorts by who has served this for longest. A trigger that is changed to claim something else begins anew: it comes
    after all who serve, and before younger ones that do not yet; of one second the names decide."""
    metadata, served = trigger["metadata"], served_of(trigger)
    since = served.get("since", _NOT_YET) if served.get("claims") == claims else _NOT_YET
    return since, metadata["creationTimestamp"], metadata["namespace"], metadata["name"]


def served_of(trigger: Mapping[str, Any]) -> Mapping[str, str]:
    """What its status says that it serves, and since when; empty where it serves nothing."""
    found: Mapping[str, str] = (trigger.get("status") or {}).get("served") or {}
    return found


def served_since(before: Mapping[str, str], claims: str, now: str) -> Mapping[str, Any]:
    """The status' field of a trigger that has what it claims; `before` is what it said last."""
    if not claims:
        return {}
    return {"served": {"claims": claims, "since": before["since"] if before.get("claims") == claims else now}}
