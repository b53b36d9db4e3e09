"""Decides which trigger owns a claim, such as a route, that only one trigger can own. Pure.

Of several triggers with the same claim, the one that has owned it for longest keeps it; otherwise the oldest gets it.
Every replica decides the same, because the owner and the time are in the trigger's status.

Across namespaces a route claims everything that it matches. Otherwise a younger trigger with a more specific route
could take requests of an older trigger. Within a namespace the more specific route wins, as in the gateway.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trigger_sources.http.routes import RouteIndex, takes_from
from trigger_sources.http_requests import Route
from trigger_sources.source import TriggerSource

Key = tuple[str, str, str]  # kind, namespace, name
Precedence = tuple[str, str, str, str]  # the lowest comes first

_NOT_YET = "~"  # sorts after every time


@dataclass(frozen=True, slots=True)
class _Claimant:
    precedence: Precedence
    claims: frozenset[str]
    text: str  # all claims
    route: Route | None


class Ownership:
    """The claims of all triggers. `update` and `remove` return the triggers that may gain or lose a claim."""

    def __init__(self) -> None:
        self._claimants: dict[Key, _Claimant] = {}
        self._by_claim: dict[str, set[Key]] = {}
        self._routes: RouteIndex[Key] = RouteIndex()

    def update(self, key: Key, trigger: Mapping[str, Any], spec: TriggerSource | None) -> set[Key]:
        """Replaces the claims of a trigger. Without a valid spec it has none."""
        affected = self.remove(key)
        if spec is None:
            return affected
        claims = spec.claims(key[2])
        text = ", ".join(sorted(claims))
        found = _Claimant(precedence_of(trigger, text), claims, text, spec.route(key[2]))
        self._claimants[key] = found
        for claim in found.claims:
            self._by_claim.setdefault(claim, set()).add(key)
        if found.route is not None:
            self._routes.add(found.route, key)
        return affected | self._affected_by(key, found)

    def remove(self, key: Key) -> set[Key]:
        """Removes the claims of a trigger."""
        found = self._claimants.pop(key, None)
        if found is None:
            return set()
        affected = self._affected_by(key, found)
        for claim in found.claims:
            self._by_claim[claim].discard(key)
            if not self._by_claim[claim]:
                del self._by_claim[claim]
        if found.route is not None:
            self._routes.remove(found.route)
        return affected

    def conflict_of(self, key: Key) -> tuple[str, Key] | None:
        """A claim of the trigger that another trigger owns, as text, and that trigger. None: it owns all its claims."""
        mine = self._claimants[key]
        for claim in sorted(mine.claims):
            owner = min(self._by_claim[claim], key=lambda other: self._claimants[other].precedence)
            if owner != key:
                return claim, owner
        owners = [
            (self._claimants[other].precedence, other, route)
            for other, route in self._overlapping_elsewhere(key, mine)
            if self._claimants[other].precedence < mine.precedence
            and mine.route is not None
            and takes_from(mine.route, route)
        ]
        if not owners:
            return None
        _, owner, route = min(owners, key=lambda found: found[:2])
        return f"some of {route.host or ''}{route.path}", owner

    def claims_of(self, key: Key) -> str:
        """The claims of the trigger as text, empty if it has none."""
        found = self._claimants.get(key)
        return "" if found is None else found.text

    def _affected_by(self, key: Key, found: _Claimant) -> set[Key]:
        same = {other for claim in found.claims for other in self._by_claim[claim]}
        overlapping = self._overlapping_elsewhere(key, found)
        return same | {other for other, _ in overlapping if self._claimants[other].precedence > found.precedence}

    def _overlapping_elsewhere(self, key: Key, claimant: _Claimant) -> Iterator[tuple[Key, Route]]:
        """The routes in other namespaces that may match the same requests."""
        if claimant.route is not None:
            for route, other in self._routes.overlapping(claimant.route):
                if other[1] != key[1]:
                    yield other, route


def precedence_of(trigger: Mapping[str, Any], claims: str) -> Precedence:
    """Sorts the longest owner first, then the oldest trigger, then by namespace and name.

    A trigger whose claims change loses its time of ownership: it comes after every present owner.
    """
    metadata, owned = trigger["metadata"], ownership_in_status(trigger)
    since = owned.get("since", _NOT_YET) if owned.get("claims") == claims else _NOT_YET
    return since, metadata["creationTimestamp"], metadata["namespace"], metadata["name"]


def ownership_in_status(trigger: Mapping[str, Any]) -> Mapping[str, str]:
    """The field `served` of the status: the claims that the trigger owns, and since when. Empty if it owns none."""
    found: Mapping[str, str] = (trigger.get("status") or {}).get("served") or {}
    return found


def ownership_fields(before: Mapping[str, str], claims: str, now: str) -> Mapping[str, Any]:
    """The field `served` for the status of a trigger that owns these claims. `before` is its last value."""
    if not claims:
        return {}
    return {"served": {"claims": claims, "since": before["since"] if before.get("claims") == claims else now}}
