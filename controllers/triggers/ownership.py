"""Decides which trigger owns a claim, such as a route, that only one trigger can own. Pure.

Of several triggers with the same claim, the one that has owned it for longest keeps it; otherwise the oldest gets it.
Every replica decides the same, because the owner and the time are in the trigger's status.

A trigger keeps its claims while it exists, whether it runs or not. A spec that became invalid does not change them. A
valid spec with other claims replaces them once the trigger owns the new ones; a spec that never was valid claims
nothing. Each claim has its own age: a new one gets nothing of what another namespace got before.

Across namespaces a route claims everything that it matches. Otherwise a younger trigger with a more specific route
could take requests of an older trigger. Within a namespace the more specific route wins, as in the gateway.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trigger_sources.http.routes import RouteIndex, claims_of, route_of_claims, takes_from
from trigger_sources.http_requests import Route
from trigger_sources.source import TriggerSource

Key = tuple[str, str, str]  # kind, namespace, name
Precedence = tuple[str, str, str, str]  # the lowest comes first

_NOT_YET = "~"  # sorts after every time
_SEPARATOR = ", "


@dataclass(frozen=True, slots=True, eq=False)
class _Stake:
    """The claims that a trigger has had since the same time. A trigger whose spec changed has several stakes."""

    key: Key
    precedence: Precedence
    claims: frozenset[str]
    route: Route | None
    left: bool = False  # the present spec claims something else

    @property
    def is_owned(self) -> bool:
        """Whether the trigger's status says that it owns them."""
        return self.precedence[0] != _NOT_YET


class Ownership:
    """The claims of all triggers. `update` and `remove` return the triggers that may gain or lose a claim.

    With `one_tenant`, namespaces do not protect their routes from each other: the more specific route wins everywhere.
    """

    def __init__(self, *, one_tenant: bool = False) -> None:
        self._one_tenant = one_tenant
        self._stakes: dict[Key, list[_Stake]] = {}
        self._claimed: dict[Key, str] = {}  # the claims of each valid spec
        self._valid: dict[Key, TriggerSource] = {}  # the last valid spec of each
        self._by_claim: dict[str, dict[_Stake, None]] = {}
        self._routes: RouteIndex[_Stake] = RouteIndex()

    def update(self, key: Key, trigger: Mapping[str, Any], spec: TriggerSource | None) -> set[Key]:
        """Replaces the claims of a trigger. Without a valid spec it keeps those that it owns."""
        valid, owned, before = spec or self._valid.get(key), self.claims_of(key), self._stakes.get(key, ())
        if spec is None and owned and (_text_of(_of_status(trigger)) != owned or any(stake.left for stake in before)):
            spec = valid  # the spec broke before the status was written
        stakes, claimed = list(_stakes_of(key, trigger, spec)), None if spec is None else _text_of(spec.claims(key[2]))
        affected = self.remove(key)
        if stakes:
            self._stakes[key] = stakes
        if valid is not None:
            self._valid[key] = valid
        if claimed is not None:
            self._claimed[key] = claimed
        for stake in stakes:
            for claim in stake.claims:
                self._by_claim.setdefault(claim, {})[stake] = None
            if stake.route is not None:
                self._routes.add(stake.route, stake)
        return self._with_leavers(affected | {other for stake in stakes for other in self._affected_by(stake)})

    def remove(self, key: Key) -> set[Key]:
        """Removes the claims of a trigger."""
        self._claimed.pop(key, None)
        self._valid.pop(key, None)
        stakes = self._stakes.pop(key, [])
        affected = {other for stake in stakes for other in self._affected_by(stake)}
        for stake in stakes:
            for claim in stake.claims:
                del self._by_claim[claim][stake]
                if not self._by_claim[claim]:
                    del self._by_claim[claim]
            if stake.route is not None:
                self._routes.remove(stake.route)
        return self._with_leavers(affected)

    def conflict_of(self, key: Key) -> tuple[str, Key] | None:
        """A claim of the spec that another trigger owns, as text, and that trigger. None: it owns all its claims."""
        conflicts = (self._conflict(stake) for stake in self._stakes.get(key, ()) if not stake.left)
        return next((found for found in conflicts if found is not None), None)

    def routes_of(self, key: Key) -> list[Route]:
        """The routes that the trigger owns, running or not. Nobody else may get their requests."""
        found = []
        for stake in self._stakes.get(key, ()):
            if stake.route is None:
                continue
            if stake.left:
                kept = frozenset(claim for claim in stake.claims if not self._is_passed_on(stake, claim))
                if kept:
                    found.append(_part_of(stake.route, kept))
            elif self._conflict(stake) is None:
                found.append(stake.route)
        return found

    def claims_of(self, key: Key) -> str | None:
        """The claims to write into the status, as text. None: the trigger has none, or another one owns one.

        Claims that the spec has left are among them until the status of the trigger that gets them has them. Without
        that, a trigger elsewhere could get them in between.
        """
        claimed = self._claimed.get(key)
        if claimed is None or self.conflict_of(key) is not None:
            return None
        left = {claim for stake in self._stakes.get(key, ()) if stake.left for claim in stake.claims}
        kept = {claim for claim in left if self._is_on_its_way(key, claim)}
        return claimed if not kept else _text_of(frozenset({*claimed.split(_SEPARATOR), *kept} - {""}))

    def _conflict(self, stake: _Stake) -> tuple[str, Key] | None:
        for claim in sorted(stake.claims):
            if (blocker := self._blocker(stake, claim)) is not None:
                return claim, blocker.key
        owners = [
            (other.precedence, other.key, route)
            for other, route in self._overlapping_elsewhere(stake)
            if other.precedence < stake.precedence
            and not _yields(other, stake)
            and stake.route is not None
            and takes_from(stake.route, route)
        ]
        if not owners:
            return None
        _, owner, route = min(owners, key=lambda found: found[:2])
        return f"some of {route.host or ''}{route.path}", owner

    def _blocker(self, stake: _Stake, claim: str) -> _Stake | None:
        """The stake of the trigger that owns the claim, unless it is this one's."""
        others = [
            other
            for other in self._by_claim[claim]
            if other.key != stake.key
            and not _yields(other, stake)
            and (other.precedence < stake.precedence or _yields(stake, other))
        ]
        return min(others, key=lambda other: other.precedence, default=None)

    def _is_passed_on(self, stake: _Stake, claim: str) -> bool:
        """Whether another trigger owns a claim that this one wants to leave."""
        blocker = self._blocker(stake, claim)
        return blocker is not None and self.conflict_of(blocker.key) is None

    def _is_on_its_way(self, key: Key, claim: str) -> bool:
        """Whether another trigger of the namespace gets a claim that this one leaves, and its status lacks that."""
        takers = {other.key: other for other in self._by_claim[claim] if other.key != key and not other.left}
        own = [other for other in takers.values() if other.key[1] == key[1] and self.conflict_of(other.key) is None]
        return any(not other.is_owned for other in own)

    def _with_leavers(self, affected: set[Key]) -> set[Key]:
        """These triggers, and those that want to leave one of their claims."""
        stakes = (stake for key in affected for stake in self._stakes.get(key, ()))
        sharing = (other for stake in stakes for claim in stake.claims for other in self._by_claim[claim])
        return affected | {other.key for other in sharing if other.left}

    def _affected_by(self, stake: _Stake) -> set[Key]:
        same = {other.key for claim in stake.claims for other in self._by_claim[claim]}
        overlapping = self._overlapping_elsewhere(stake)
        return same | {other.key for other, _ in overlapping if other.precedence > stake.precedence}

    def _overlapping_elsewhere(self, stake: _Stake) -> Iterator[tuple[_Stake, Route]]:
        """The routes in other namespaces that may match the same requests."""
        if stake.route is not None and not self._one_tenant:
            for route, other in self._routes.overlapping(stake.route):
                if other.key[1] != stake.key[1]:
                    yield other, route


def _yields(stake: _Stake, other: _Stake) -> bool:
    """Whether a stake stands in nobody's way, since its trigger wants to leave it, or has left it.

    The namespace may move its own routes around. Of two of its triggers that own the same claims, the later one got
    them from the other one. A trigger elsewhere that owns the same claims got them from an earlier version of the
    controller.
    """
    if other.left:
        return False
    same_namespace = stake.key[1] == other.key[1]
    if stake.left:
        return same_namespace or other.is_owned
    return same_namespace and other.is_owned and stake.is_owned and other.precedence > stake.precedence


def _stakes_of(key: Key, trigger: Mapping[str, Any], spec: TriggerSource | None) -> Iterator[_Stake]:
    """The claims that the trigger keeps, those that are new, and those that the spec does not claim any more."""
    owned, metadata = _times_of(ownership_in_status(trigger)), trigger["metadata"]
    before = frozenset(owned)
    age = metadata["creationTimestamp"], metadata["namespace"], metadata["name"]
    wanted = before if spec is None else spec.claims(key[2])
    route = None if spec is None else spec.route(key[2])
    for claims, whole, left in ((wanted, route, False), (before - wanted, None, True)):
        for time, part in _by_time({claim: owned.get(claim, _NOT_YET) for claim in claims}):
            if whole is not None:
                yield _Stake(key, (time, *age), part, _part_of(whole, part), left)
            else:
                for same in _by_place(part):
                    yield _Stake(key, (time, *age), same, route_of_claims(same), left)


def _part_of(route: Route, claims: frozenset[str]) -> Route:
    """The route with the methods of these claims only."""
    if claims_of(route) == claims:
        return replace(route)  # the index removes a route by its identity
    return replace(route, methods=sorted(claim.split(" ", 1)[0] for claim in claims))


def _of_status(trigger: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(_times_of(ownership_in_status(trigger)))


def ownership_in_status(trigger: Mapping[str, Any]) -> Mapping[str, Any]:
    """The field `served` of the status: the claims that the trigger owns, and since when. Empty if it owns none.

    `later` has those of the claims that it has owned for a shorter time than the others.
    """
    found: Mapping[str, Any] = (trigger.get("status") or {}).get("served") or {}
    return found


def ownership_fields(before: Mapping[str, Any], claims: str | None, now: str) -> Mapping[str, Any]:
    """The field `served` for the status of a trigger that owns these claims. `before` is its last value.

    None leaves the field alone. A claim that the trigger keeps has its time, and a new one is the youngest: a trigger
    of another namespace may have got some of its requests in between.
    """
    if claims is None or (not claims and not before):
        return {}
    if not claims:
        return {"served": None}
    owned = _times_of(before)
    (first, _), *later = _by_time({claim: owned.get(claim, now) for claim in claims.split(_SEPARATOR)})
    fields: dict[str, Any] = {"claims": claims, "since": first}
    if later or before.get("later"):
        fields["later"] = [{"claims": _text_of(part), "since": time} for time, part in later] or None
    return {"served": fields}


def _times_of(served: Mapping[str, Any]) -> dict[str, str]:
    """Since when the trigger owns each of its claims."""
    times: dict[str, str] = {}
    for part in (served, *(served.get("later") or ())):
        times |= dict.fromkeys(frozenset(part.get("claims", "").split(_SEPARATOR)) - {""}, part.get("since", _NOT_YET))
    return times


def _by_time(times: Mapping[str, str]) -> list[tuple[str, frozenset[str]]]:
    """The claims of each time, the earliest first."""
    return [(time, frozenset(c for c in times if times[c] == time)) for time in sorted(set(times.values()))]


def _by_place(claims: frozenset[str]) -> list[frozenset[str]]:
    """The claims of each path. A status has those of two paths while another trigger of the namespace gets one."""
    places = sorted({claim.partition(" ")[2] for claim in claims})
    return [frozenset(claim for claim in claims if claim.partition(" ")[2] == place) for place in places]


def _text_of(claims: frozenset[str]) -> str:
    return _SEPARATOR.join(sorted(claims))
