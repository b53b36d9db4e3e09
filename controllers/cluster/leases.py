"""Leases of the API server, shared out over the replicas of one controller: what each does, the others leave alone."""

import asyncio
import logging
import math
import random
import time
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

from controllers.cluster.api import Api, Object, Refused
from controllers.cluster.lease_assignment import Lease, Shares, Write

log = logging.getLogger(__name__)

API_VERSION, KIND = "coordination.k8s.io/v1", "Lease"
LABEL = "kubeirq.dev/slots"  # on every Lease: the name that they share
WANTED_BY = "kubeirq.dev/wanted-by"  # an annotation: the replica that asks the holder for it

_FAREWELL_SECONDS = 3.0  # after the last slot was let go, as long as this for telling the others

Clock = Callable[[], float]


def clock() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Slots:
    """`count` Leases of the namespace, `<name>-<number>` (for one: `<name>`), of which this replica has its share.

    `identity`: of this replica; no two that run at the same time have the same. `count` is part of what all replicas
    agree about: another count is for when none of the old ones runs.

    `let_go(slot)` is awaited when a slot is to be given up or was lost: it returns once nothing goes on there any more.
    While it runs the slot is not in `held`. It has a `term` still if it is given up, and none if it was lost: then a
    third of `duration_seconds` is left before another may begin. `changed` is called after every change of `held`.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        let_go: Callable[[int], Awaitable[None]],
        changed: Callable[[], None],
        count: int = 1,
        duration_seconds: float = 15.0,
        renew_seconds: float | None = None,  # a third of the duration
        clock: Clock = clock,
    ) -> None:
        self.count = count
        self._api = api
        self._namespace = namespace
        self._name = name
        self._let_go = let_go
        self._changed = changed
        self._duration = duration_seconds
        self._clock = clock
        renew_seconds = duration_seconds / 3 if renew_seconds is None else renew_seconds
        self._shares = Shares(identity, count, duration_seconds, renew_seconds)
        self._letting_go: dict[int, asyncio.Task[None]] = {}
        self._told: frozenset[int] = frozenset()
        self._news = asyncio.Event()  # something is to be written
        self._timer: asyncio.TimerHandle | None = None  # for the end of what is ours
        self._is_failing = False

    @property
    def held(self) -> frozenset[int]:
        """The slots that are safely ours at this moment, and are to stay so."""
        return self._shares.held(self._clock())

    def holds(self, uid: str) -> bool:
        """Whether what has this uid is ours to do, at this moment."""
        return self._shares.holds(slot_of(uid, self.count), self._clock())

    def term(self, slot: int) -> int | None:
        """The number of this holding of a slot, higher than any before: a fence for what is written by its holder.

        None: the slot is not safely ours. While it is let go on request, it is.
        """
        return self._shares.term(slot, self._clock())

    def term_of(self, uid: str) -> int | None:
        """`term` of the slot of what has this uid."""
        return self.term(slot_of(uid, self.count))

    async def run(self) -> None:
        """Until cancelled: then everything is let go and released first. A second cancellation leaves at once."""
        working = asyncio.ensure_future(self._work())
        try:
            try:
                await asyncio.shield(working)
            except asyncio.CancelledError:
                self._shares.stop()
                self._mind()
                self._news.set()
                await asyncio.shield(working)
                raise
        finally:
            tasks = [working, *self._letting_go.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._timer is not None:
                self._timer.cancel()

    async def _work(self) -> None:
        """Round after round, until told to stop and done."""
        chance = random.Random()
        farewell: float | None = None
        while not self._shares.is_over:
            self._news.clear()
            # a slow answer to the one holds up no other
            renewals = self._shares.renewals(self._clock(), _stamp())
            await asyncio.gather(self._look(), *map(self._write, renewals))
            writes = self._shares.plan(self._clock(), _stamp(), _first_term(), chance)
            self._mind()
            written = await asyncio.gather(*map(self._write, writes))
            self._mind()
            if self._shares.is_stopping and not self._letting_go:
                farewell = farewell or self._clock() + _FAREWELL_SECONDS
                if self._clock() > farewell:
                    log.warning("leases not released", extra={"leases": self._name})
                    return
            has_claimed = any(done and write.purpose == "claim" for write, done in zip(writes, written, strict=True))
            # who claims goes on soon, and sees first who else does
            pace = 0.25 if has_claimed else chance.uniform(0.8, 1.2)
            with suppress(TimeoutError):
                async with asyncio.timeout(pace * self._duration / 15):
                    await self._news.wait()

    def _mind(self) -> None:
        """Notices what is ours no longer or anew: tells of it, and begins to let go."""
        now = self._clock()
        self._shares.lapsed(now)
        if (held := self._shares.held(now)) != self._told:
            log.info("slots", extra={"leases": self._name, "held": sorted(held), "before": sorted(self._told)})
            self._told = held
            self._changed()
        for slot in self._shares.leaving - self._letting_go.keys():
            self._letting_go[slot] = asyncio.ensure_future(self._end(slot))
        if self._timer is not None:
            self._timer.cancel()
        if (end := self._shares.ends(now)) is not None:
            self._timer = asyncio.get_running_loop().call_later(end - now, self._mind)

    async def _end(self, slot: int) -> None:
        try:
            await self._let_go(slot)
        except Exception:
            log.exception("letting go failed", extra={"leases": self._name, "slot": slot})
        finally:
            del self._letting_go[slot]
            self._shares.ended(slot)
            self._mind()
            self._news.set()

    async def _look(self) -> None:
        leases: dict[int, Lease] = {}
        asked_at = self._clock()
        try:
            async with asyncio.timeout(self._duration / 5):
                listed = await self._api.list(API_VERSION, KIND, self._namespace, {LABEL: self._name})
                by_name = {found["metadata"]["name"]: found for found in listed}
                for slot in range(self.count):
                    name = self._name_of(slot)
                    found = by_name.get(name) or await self._api.get(API_VERSION, KIND, self._namespace, name)
                    if found is not None:
                        leases[slot] = lease_of(found)
        except (Refused, OSError, TimeoutError) as error:
            self._failed("leases not read", error)
            return
        if self._is_failing:
            self._is_failing = False
            log.info("leases read again", extra={"leases": self._name})
        self._shares.looked(leases, asked_at, self._clock())

    async def _write(self, write: Write) -> bool:
        sent_at = self._clock()
        wanted = self._object_of(write.slot, write.lease)
        try:
            async with asyncio.timeout(self._duration / 5):
                if write.lease.version:
                    made = await self._api.replace(wanted)
                else:
                    made = await self._api.create(wanted)
        except (Refused, OSError, TimeoutError) as error:
            if not (isinstance(error, Refused) and error.status == 409):  # another was faster: the next look tells who
                self._failed("lease not written", error)
            return False
        self._shares.wrote(write, sent_at, self._clock(), made["metadata"]["resourceVersion"])
        return True

    def _failed(self, text: str, error: Exception) -> None:
        """A warning for the first of several in a row."""
        level = logging.DEBUG if self._is_failing else logging.WARNING
        self._is_failing = True
        log.log(level, text, extra={"leases": self._name, "problem": str(error) or type(error).__name__})

    def _name_of(self, slot: int) -> str:
        return self._name if self.count == 1 else f"{self._name}-{slot}"

    def _object_of(self, slot: int, lease: Lease) -> Object:
        metadata: Object = {"name": self._name_of(slot), "namespace": self._namespace, "labels": {LABEL: self._name}}
        if lease.wanted_by:
            metadata["annotations"] = {WANTED_BY: lease.wanted_by}
        if lease.version:
            metadata["resourceVersion"] = lease.version
        spec: Object = {
            "holderIdentity": lease.holder or None,
            "leaseDurationSeconds": math.ceil(lease.duration_seconds),
            "acquireTime": lease.acquired or None,
            "renewTime": lease.renewed or None,
            "leaseTransitions": lease.transitions,
        }
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def slot_of(uid: str, count: int) -> int:
    """The slot of what has this uid: the same in every process."""
    return zlib.crc32(uid.encode()) % count


def lease_of(found: Object) -> Lease:
    """What of a Lease object decides."""
    metadata, spec = found["metadata"], found.get("spec", {})
    return Lease(
        holder=spec.get("holderIdentity") or "",
        acquired=spec.get("acquireTime") or "",
        renewed=spec.get("renewTime") or "",
        transitions=spec.get("leaseTransitions") or 0,
        duration_seconds=float(spec.get("leaseDurationSeconds") or 0),
        wanted_by=metadata.get("annotations", {}).get(WANTED_BY, ""),
        version=metadata["resourceVersion"],
    )


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _first_term() -> int:
    """Minutes since 1970: a Lease that is made anew goes on above the terms of one that was removed."""
    return int(time.time() // 60)
