"""Decides which Leases one of several replicas holds, and its next writes to them. Pure: time and chance are arguments.

A slot is one of the Leases, known by its number. The share of a replica is the slots that it should hold: all of them,
divided by the number of live replicas. Times are seconds of this replica's own clock. The clocks of two replicas may
show different times, but run at the same speed.

- A replica holds a slot from the moment at which it sends a successful write until two thirds of the Lease's duration
  later. Another replica acquires the slot once it has observed the Lease unchanged for the whole duration by its own
  clock. The remaining third is the safety margin.
- Every write replaces the version that the replica observed last. Of two concurrent writes, the API server takes one.
- A replica that has at least two slots fewer than another requests one, by an annotation on the Lease. The holder
  releases the slot if that evens out the shares. Otherwise it removes the annotation when it renews the Lease.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Lease:
    """The Lease of a slot. `version` is its resource version, empty if the Lease does not exist."""

    holder: str = ""
    acquired: str = ""
    renewed: str = ""  # different for each renewal
    transitions: int = 0
    duration_seconds: float = 0
    wanted_by: str = ""
    version: str = ""

    @property
    def heartbeat(self) -> tuple[str, str, int]:
        """The fields that only the holder changes."""
        return self.holder, self.renewed, self.transitions


@dataclass(frozen=True)
class LeaseWrite:
    """A Lease to write. Its version is the one that it replaces, empty if the write creates the Lease."""

    slot: int
    purpose: Literal["acquire", "renew", "release", "request"]
    lease: Lease


@dataclass(frozen=True)
class _Holding:
    term: int
    sent_at: float
    until: float


class LeaseAssignment:
    """The slots of one replica, out of `count`. `identity` is unique among the replicas that run.

    In each round, write the `renewals` while you read the Leases. Then call `observe`, and write the result of `plan`.
    Call `written` after each successful write. Meanwhile, end the work of each slot in `draining`, and then call
    `drained`.
    """

    def __init__(self, identity: str, count: int, duration_seconds: float, renew_seconds: float) -> None:
        self._identity = identity
        self._count = count
        self._duration = duration_seconds
        self._deadline = duration_seconds * 2 / 3
        self._renew = renew_seconds
        self._wait_unit = duration_seconds / 15
        self._observed: dict[int, Lease] = {}
        self._unchanged_since: dict[int, float] = {}  # when this replica first observed the present heartbeat
        self._written_at: dict[int, float] = {}  # when the response to the last successful write arrived
        self._holdings: dict[int, _Holding] = {}
        self._releasing: set[int] = set()  # another replica requested these, or this one stops
        self.is_stopping = False
        self.draining: set[int] = set()  # lost, or about to be released: the work of these slots has to end

    def held(self, now: float) -> frozenset[int]:
        """The slots that this replica safely holds and is not draining."""
        return frozenset(slot for slot in self._holdings if self.holds(slot, now))

    def holds(self, slot: int, now: float) -> bool:
        return slot not in self.draining and self.term(slot, now) is not None

    def term(self, slot: int, now: float) -> int | None:
        """The number of this holding, higher than that of every earlier one. None if the slot is not safely held.

        A slot that drains before its release still has its term.
        """
        holding = self._holdings.get(slot)
        return holding.term if holding is not None and now < holding.until else None

    def next_expiry(self, now: float) -> float | None:
        """The time at which the first holding ends unless it is renewed."""
        return min((holding.until for holding in self._holdings.values() if holding.until > now), default=None)

    def next_renewal(self) -> float:
        """The time at which the first renewal is due. Infinite if no slot is held."""
        return min((holding.sent_at + self._renew for holding in self._holdings.values()), default=math.inf)

    @property
    def is_stopped(self) -> bool:
        """Whether this replica has released everything after `stop`."""
        return self.is_stopping and not self.draining and not any(map(self._is_holder_of, range(self._count)))

    def stop(self) -> None:
        """Drains and releases every slot. From now on the replica acquires none."""
        self.is_stopping = True
        for slot in self._holdings:
            self._drain(slot, release=True)

    def drained(self, slot: int) -> None:
        """The work of the slot has ended."""
        self.draining.discard(slot)
        if slot in self._releasing:
            self._holdings.pop(slot, None)  # another replica may acquire it before the response to the release arrives

    def observe(self, leases: Mapping[int, Lease], asked_at: float, now: float) -> None:
        """Takes the Leases that exist. `asked_at` and `now` are the times of the request and of its response."""
        for slot in range(self._count):
            if self._written_at.get(slot, asked_at - 1) >= asked_at:
                continue  # the replica's own write is newer
            lease = leases.get(slot, Lease())
            before = self._observed.get(slot)
            if before is None or before.heartbeat != lease.heartbeat:
                # the holder of a deleted Lease may not know of the deletion; a Lease that never existed has no holder
                self._unchanged_since[slot] = now if before is not None or lease.version else now - self._duration
            self._observed[slot] = lease
            holding = self._holdings.get(slot)
            if holding is not None and (lease.holder, lease.transitions) != (self._identity, holding.term):
                self._lose(slot)
            if not self._is_holder_of(slot):
                self._releasing.discard(slot)

    def expire(self, now: float) -> None:
        """Gives up each slot that was not renewed in time."""
        for slot, holding in list(self._holdings.items()):
            if now >= holding.until:
                self._lose(slot)

    def renewals(self, now: float, stamp: str) -> list[LeaseWrite]:
        """The writes that keep the slots. `stamp` is the time to write."""
        self.expire(now)
        writes = []
        for slot, holding in self._holdings.items():
            lease = self._observed[slot]
            wanted_by = lease.wanted_by if slot in self._releasing else ""
            if now >= holding.sent_at + self._renew or lease.wanted_by != wanted_by:
                writes.append(LeaseWrite(slot, "renew", replace(lease, renewed=stamp, wanted_by=wanted_by)))
        return writes

    def plan(self, now: float, stamp: str, first_term: int, chance: random.Random) -> list[LeaseWrite]:
        """The writes to send after `observe`. `first_term` is the term of a Lease that this replica creates."""
        self.expire(now)
        if not self.is_stopping:
            self._grant_requests(now)
        writes = self.renewals(now, stamp)
        mine = Lease(self._identity, stamp, stamp, duration_seconds=self._duration)
        for slot, lease in self._observed.items():
            if slot in self._holdings:
                continue
            is_ended = slot not in self.draining and (slot in self._releasing or self.is_stopping)
            if self._is_holder_of(slot) and is_ended:
                writes.append(LeaseWrite(slot, "release", replace(lease, holder="", renewed=stamp)))
        if self.is_stopping:
            return writes
        acquired = self._slots_to_acquire(now, chance)
        for slot in acquired:
            lease = self._observed[slot]
            term = lease.transitions + 1 if lease.version else first_term
            writes.append(LeaseWrite(slot, "acquire", replace(mine, transitions=term, version=lease.version)))
        if not acquired:
            for slot in self._slots_to_request(now, chance):
                request = replace(self._observed[slot], wanted_by=self._identity)
                writes.append(LeaseWrite(slot, "request", request))
        return writes

    def written(self, write: LeaseWrite, sent_at: float, now: float, version: str) -> None:
        """The API server took the write, as this version."""
        slot, lease = write.slot, replace(write.lease, version=version)
        if self._observed[slot].heartbeat != lease.heartbeat:
            self._unchanged_since[slot] = now
        self._observed[slot] = lease
        self._written_at[slot] = now
        holding = _Holding(lease.transitions, sent_at, sent_at + self._deadline)
        match write.purpose:
            case "acquire" if not self.is_stopping:
                self._holdings[slot] = holding
            case "renew" if slot in self._holdings:  # unless the renewal came too late
                self._holdings[slot] = holding
            case "release":
                self._releasing.discard(slot)

    def _is_holder_of(self, slot: int) -> bool:
        return slot in self._observed and self._observed[slot].holder == self._identity

    def _drain(self, slot: int, *, release: bool) -> None:
        self.draining.add(slot)
        if release:
            self._releasing.add(slot)

    def _lose(self, slot: int) -> None:
        del self._holdings[slot]
        self._drain(slot, release=False)

    def _free_for(self, slot: int, now: float) -> float | None:
        """For how many seconds the slot has been free. None if a replica holds it, or may hold it."""
        lease = self._observed[slot]
        unchanged = now - self._unchanged_since[slot]
        if slot in self._holdings or slot in self.draining or slot in self._releasing:
            return None
        if lease.holder == self._identity:
            return unchanged  # from before a restart of this replica, or from a write without a response
        if lease.version and not lease.holder:
            wait = 0 if lease.wanted_by in ("", self._identity) else 3 * self._wait_unit
        else:
            wait = lease.duration_seconds or self._duration
        return unchanged - wait if unchanged >= wait else None

    def _slots_to_acquire(self, now: float, chance: random.Random) -> list[int]:
        """The free slots that name this replica as holder or requester, and others up to its share.

        Beyond its share, the replica lets a slot stay free for longer the more slots it has.
        """
        free = {slot: since for slot in self._observed if (since := self._free_for(slot, now)) is not None}
        slots = [
            slot for slot in free if self._identity in (self._observed[slot].holder, self._observed[slot].wanted_by)
        ]
        others = [slot for slot in free if slot not in slots]
        chance.shuffle(others)
        share = self._count // len(self._slot_counts(now))
        have = len(self._holdings.keys() - self.draining) + len(slots)
        for slot in others:
            excess = have + 1 - share
            if free[slot] >= excess * self._wait_unit:
                slots.append(slot)
                have += 1
                if have == 1:
                    break  # so that a replica that starts at the same time observes this one before it takes a share
        return slots

    def _slot_counts(self, now: float) -> Counter[str]:
        """The number of slots of each live replica, as if every request were granted."""
        counts = Counter({self._identity: 0})
        for slot, lease in self._observed.items():
            if lease.holder and self._free_for(slot, now) is None:
                is_kept = slot in self._holdings and slot not in self._releasing
                counts[lease.holder if is_kept else lease.wanted_by or lease.holder] += 1
                counts[lease.holder] += 0  # a replica that gives away all its slots is still live
        return counts

    def _slots_to_request(self, now: float, chance: random.Random) -> list[int]:
        """The slots to request, until no other replica has two more than this one. Empty while a slot is free."""
        if any(self._free_for(slot, now) is not None for slot in self._observed):
            return []
        counts = self._slot_counts(now)
        candidates = [
            slot
            for slot, lease in self._observed.items()
            if lease.holder not in ("", self._identity) and not lease.wanted_by
        ]
        chance.shuffle(candidates)
        requested = []
        while candidates:
            slot = max(candidates, key=lambda slot: counts[self._observed[slot].holder])
            holder = self._observed[slot].holder
            if counts[holder] - counts[self._identity] < 2:
                break
            candidates.remove(slot)
            requested.append(slot)
            counts[holder] -= 1
            counts[self._identity] += 1
        return requested

    def _grant_requests(self, now: float) -> None:
        """Drains requested slots for replicas that have at least two fewer. `renewals` removes the other requests."""
        requests = {
            slot: self._observed[slot].wanted_by
            for slot in self._holdings.keys() - self._releasing
            if self._observed[slot].wanted_by not in ("", self._identity)
        }
        counts = self._slot_counts(now)
        while requests:
            slot = min(requests, key=lambda slot: counts[requests[slot]])  # the replica with the fewest comes first
            requester = requests.pop(slot)
            if counts[self._identity] - counts[requester] < 2:
                return
            counts[self._identity] -= 1
            counts[requester] += 1
            self._drain(slot, release=True)
