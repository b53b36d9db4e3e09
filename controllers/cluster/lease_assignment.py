"""Which slots one of several replicas has, and what it writes next about them. Pure: time and chance are arguments.

Times are seconds of this replica's own clock. Clocks of replicas may differ in what they show, not in how fast they go.

- A slot is ours from the sending of a write that succeeded until two thirds of the Lease's duration later. Others take
  it when they have seen it unchanged for the whole duration, by their clock: the third between is the margin.
- Every write replaces the version that was last seen; of two, the API server takes one.
- A replica that has two slots fewer than another asks for one by an annotation on its Lease. The holder lets go of it
  where that brings the shares nearer, and forgets it otherwise, with a renewal.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Lease:
    """A slot's Lease. `version` is the API server's; empty: there is none. `renewed` tells one renewal from another."""

    holder: str = ""
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0
    duration_seconds: float = 0
    wanted_by: str = ""
    version: str = ""

    @property
    def sign_of_life(self) -> tuple[str, str, int]:
        """What only its holder changes."""
        return self.holder, self.renewed, self.transitions


@dataclass(frozen=True)
class Write:
    """A Lease as it is to be; its version is the one that it replaces, empty where it is to be made."""

    slot: int
    purpose: Literal["claim", "renew", "release", "ask"]
    lease: Lease


@dataclass(frozen=True)
class _Ours:
    term: int
    sent_at: float
    until: float


class Shares:
    """One replica's part of `count` slots. `identity` is its own: no two that run have the same.

    Once round: `renewals` are written while what is there is looked for; after `looked`, what `plan` says is written;
    `wrote` for each write that succeeded. In between, what is in `leaving` is brought to an end by whoever works on it,
    who then says `ended`.
    """

    def __init__(self, identity: str, count: int, duration_seconds: float, renew_seconds: float) -> None:
        self._identity = identity
        self._count = count
        self._duration = duration_seconds
        self._deadline = duration_seconds * 2 / 3
        self._renew = renew_seconds
        self._patience = duration_seconds / 15
        self._seen: dict[int, Lease] = {}
        self._since: dict[int, float] = {}  # when we first saw this sign of life
        self._wrote: dict[int, float] = {}  # when we heard that a write of ours was taken
        self._ours: dict[int, _Ours] = {}
        self._giving: set[int] = set()  # to be released: another wants it, or we stop
        self.is_stopping = False
        self.leaving: set[int] = set()  # ours no longer, or not for long: what goes on there has to end

    def held(self, now: float) -> frozenset[int]:
        """What is safely ours and is to stay so."""
        return frozenset(slot for slot in self._ours if self.holds(slot, now))

    def holds(self, slot: int, now: float) -> bool:
        return slot not in self.leaving and self.term(slot, now) is not None

    def term(self, slot: int, now: float) -> int | None:
        """The number of our holding, higher than all before; None: it is not safely ours. Also while we let go."""
        ours = self._ours.get(slot)
        return ours.term if ours is not None and now < ours.until else None

    def ends(self, now: float) -> float | None:
        """When the first of what is ours ends unless it is renewed."""
        return min((ours.until for ours in self._ours.values() if ours.until > now), default=None)

    @property
    def is_over(self) -> bool:
        """Told to stop, and done."""
        return self.is_stopping and not self.leaving and not any(map(self._names_us, range(self._count)))

    def stop(self) -> None:
        """Everything is let go and released; nothing is taken any more."""
        self.is_stopping = True
        for slot in self._ours:
            self._leave(slot, give=True)

    def ended(self, slot: int) -> None:
        """Nothing goes on in that slot any more."""
        self.leaving.discard(slot)
        if slot in self._giving:
            self._ours.pop(slot, None)  # from the release on, another may have it before we hear so

    def looked(self, leases: Mapping[int, Lease], asked_at: float, now: float) -> None:
        """What the API server has, where something is there. `now`: when its answer had come."""
        for slot in range(self._count):
            if self._wrote.get(slot, asked_at - 1) >= asked_at:
                continue  # we know better
            lease = leases.get(slot, Lease())
            before = self._seen.get(slot)
            if before is None or before.sign_of_life != lease.sign_of_life:
                # one that vanished had a holder that may not know; one that never was there has none
                self._since[slot] = now if before is not None or lease.version else now - self._duration
            self._seen[slot] = lease
            ours = self._ours.get(slot)
            if ours is not None and (lease.holder, lease.transitions) != (self._identity, ours.term):
                self._lose(slot)
            if not self._names_us(slot):
                self._giving.discard(slot)

    def lapsed(self, now: float) -> None:
        """What could not be renewed in time is no longer ours."""
        for slot, ours in list(self._ours.items()):
            if now >= ours.until:
                self._lose(slot)

    def renewals(self, now: float, stamp: str) -> list[Write]:
        """What to write for keeping what is ours. `stamp`: the time."""
        self.lapsed(now)
        writes = []
        for slot, ours in self._ours.items():
            lease = self._seen[slot]
            wanted_by = lease.wanted_by if slot in self._giving else ""
            if now >= ours.sent_at + self._renew or lease.wanted_by != wanted_by:
                writes.append(Write(slot, "renew", replace(lease, renewed=stamp, wanted_by=wanted_by)))
        return writes

    def plan(self, now: float, stamp: str, first_term: int, chance: random.Random) -> list[Write]:
        """What to write once we have looked. `first_term`: of a Lease that is made, before any."""
        self.lapsed(now)
        if not self.is_stopping:
            self._grant(now)
        writes = self.renewals(now, stamp)
        mine = Lease(self._identity, stamp, stamp, duration_seconds=self._duration)
        for slot, lease in self._seen.items():
            if slot in self._ours:
                continue
            if self._names_us(slot) and slot not in self.leaving and (slot in self._giving or self.is_stopping):
                writes.append(Write(slot, "release", replace(lease, holder="", renewed=stamp)))
        if self.is_stopping:
            return writes
        claims = self._claims(now, chance)
        for slot in claims:
            lease = self._seen[slot]
            term = lease.transitions + 1 if lease.version else first_term
            writes.append(Write(slot, "claim", replace(mine, transitions=term, version=lease.version)))
        if not claims:
            asks = self._asks(now, chance)
            writes += [Write(slot, "ask", replace(self._seen[slot], wanted_by=self._identity)) for slot in asks]
        return writes

    def wrote(self, write: Write, sent_at: float, now: float, version: str) -> None:
        """The API server took it, as this version."""
        slot, lease = write.slot, replace(write.lease, version=version)
        if self._seen[slot].sign_of_life != lease.sign_of_life:
            self._since[slot] = now
        self._seen[slot] = lease
        self._wrote[slot] = now
        ours = _Ours(lease.transitions, sent_at, sent_at + self._deadline)
        match write.purpose:
            case "claim" if not self.is_stopping:
                self._ours[slot] = ours
            case "renew" if slot in self._ours:  # unless it came too late
                self._ours[slot] = ours
            case "release":
                self._giving.discard(slot)

    def _names_us(self, slot: int) -> bool:
        return slot in self._seen and self._seen[slot].holder == self._identity

    def _leave(self, slot: int, *, give: bool) -> None:
        self.leaving.add(slot)
        if give:
            self._giving.add(slot)

    def _lose(self, slot: int) -> None:
        del self._ours[slot]
        self._leave(slot, give=False)

    def _free_for(self, slot: int, now: float) -> float | None:
        """Since how long nobody has it; None: someone has, or may have."""
        lease = self._seen[slot]
        unchanged = now - self._since[slot]
        if slot in self._ours or slot in self.leaving or slot in self._giving:
            return None
        if lease.holder == self._identity:
            return unchanged  # of an earlier life of ours, or of a write whose answer did not come
        if lease.version and not lease.holder:
            patience = 0 if lease.wanted_by in ("", self._identity) else 3 * self._patience
        else:
            patience = lease.duration_seconds or self._duration
        return unchanged - patience if unchanged >= patience else None

    def _claims(self, now: float, chance: random.Random) -> list[int]:
        """Ours by name, given to us, and of the others our share; beyond that we wait the longer the more we have."""
        free = {slot: since for slot in self._seen if (since := self._free_for(slot, now)) is not None}
        claims = [slot for slot in free if self._identity in (self._seen[slot].holder, self._seen[slot].wanted_by)]
        others = [slot for slot in free if slot not in claims]
        chance.shuffle(others)
        share = self._count // len(self._counts(now))
        have = len(self._ours.keys() - self.leaving) + len(claims)
        for slot in others:
            excess = have + 1 - share
            if free[slot] >= excess * self._patience:
                claims.append(slot)
                have += 1
                if have == 1:
                    break  # who starts at the same time is seen by its first one
        return claims

    def _counts(self, now: float) -> Counter[str]:
        """How many slots each has who is alive, once everything that is asked for is given."""
        counts = Counter({self._identity: 0})
        for slot, lease in self._seen.items():
            if lease.holder and self._free_for(slot, now) is None:
                is_kept = slot in self._ours and slot not in self._giving
                counts[lease.holder if is_kept else lease.wanted_by or lease.holder] += 1
                counts[lease.holder] += 0  # who gives everything is there still
        return counts

    def _asks(self, now: float, chance: random.Random) -> list[int]:
        """The slots of others that we ask for, while something is free none: until nobody has two more than we."""
        if any(self._free_for(slot, now) is not None for slot in self._seen):
            return []
        counts = self._counts(now)
        open_to = [
            slot
            for slot, lease in self._seen.items()
            if lease.holder not in ("", self._identity) and not lease.wanted_by
        ]
        chance.shuffle(open_to)
        asks = []
        while open_to:
            slot = max(open_to, key=lambda slot: counts[self._seen[slot].holder])
            holder = self._seen[slot].holder
            if counts[holder] - counts[self._identity] < 2:
                break
            open_to.remove(slot)
            asks.append(slot)
            counts[holder] -= 1
            counts[self._identity] += 1
        return asks

    def _grant(self, now: float) -> None:
        """Lets go of what others ask for, where they have two less; a renewal forgets the other wishes."""
        asked = {
            slot: self._seen[slot].wanted_by
            for slot in self._ours.keys() - self._giving
            if self._seen[slot].wanted_by not in ("", self._identity)
        }
        counts = self._counts(now)
        while asked:
            slot = min(asked, key=lambda slot: counts[asked[slot]])  # who has least comes first
            asker = asked.pop(slot)
            if counts[self._identity] - counts[asker] < 2:
                return
            counts[self._identity] -= 1
            counts[asker] += 1
            self._leave(slot, give=True)
