"""Leases that the replicas of one controller share: the work of each Lease runs in one replica."""

import asyncio
import logging
import math
import random
import time
import zlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime

from controllers.cluster.api import Api, Object, Refused
from controllers.cluster.informer_cache import InformerCache, Version
from controllers.cluster.lease_assignment import Lease, LeaseAssignment, LeaseWrite
from controllers.cluster.metrics import LEASES_HELD

log = logging.getLogger(__name__)

API_VERSION, KIND = "coordination.k8s.io/v1", "Lease"
LABEL = "kubeirq.dev/slots"  # on every Lease: the name that the Leases share
WANTED_BY = "kubeirq.dev/wanted-by"  # an annotation: the replica that requests the Lease from its holder

_RELEASE_SECONDS = 3.0  # the time limit for the releases after the last slot has drained

Clock = Callable[[], float]


def clock() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SharedLeases:
    """This replica's share of `count` Leases: `<name>-0`, `<name>-1` and so on, or just `<name>` if `count` is 1.

    A slot is one of these Leases, known by its number. `identity` is unique among the replicas that run. All replicas
    must agree on `count`: change it only while none of them runs.

    `drain(slot)` is called before this replica releases a slot, and after it has lost one. It returns once the slot's
    work has ended. Meanwhile the slot is not in `held`. Before a release the slot still has a `term`. After a loss it
    has none, and a third of `duration_seconds` is left until another replica may begin. `on_change` is called after
    every change of `held`, with the slots that this replica has now or lost.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        drain: Callable[[int], Awaitable[None]],
        on_change: Callable[[frozenset[int]], None],
        count: int = 1,
        duration_seconds: float = 15.0,
        renew_seconds: float | None = None,  # two fifths of the duration
        clock: Clock = clock,
    ) -> None:
        self.count = count
        self._api = api
        self._namespace = namespace
        self._name = name
        self._drain = drain
        self._on_change = on_change
        self._duration = duration_seconds
        self._clock = clock
        renew_seconds = duration_seconds * 2 / 5 if renew_seconds is None else renew_seconds
        self._assignment = LeaseAssignment(identity, count, duration_seconds, renew_seconds)
        self._drains: dict[int, asyncio.Task[None]] = {}
        self._reported: frozenset[int] = frozenset()  # as `on_change` last found it
        self._wake = asyncio.Event()  # the next round is due
        self._timer: asyncio.TimerHandle | None = None  # for the next expiry
        self._is_failing = False
        LEASES_HELD.read(name, lambda: len(self.held))
        self._leases: InformerCache[int, Lease] = InformerCache()  # by slot
        self._has_read = False
        self._is_outdated = asyncio.Event()  # the server has a newer version of a Lease than the watch brought

    @property
    def held(self) -> frozenset[int]:
        """The slots that this replica safely holds at this moment and is not draining."""
        return self._assignment.held(self._clock())

    def holds(self, uid: str) -> bool:
        """Whether this replica holds the slot of the object with this uid at this moment."""
        return self._assignment.holds(slot_of(uid, self.count), self._clock())

    def term(self, slot: int) -> int | None:
        """The number of this holding, higher than that of every earlier one: a fencing token for the holder's writes.

        None if the slot is not safely held. A slot that drains before its release is still held safely.
        """
        return self._assignment.term(slot, self._clock())

    def term_of(self, uid: str) -> int | None:
        """The `term` of the slot of the object with this uid."""
        return self.term(slot_of(uid, self.count))

    async def run(self) -> None:
        """Runs until it is cancelled, then drains and releases every slot. A second cancellation ends it at once."""
        watching = asyncio.ensure_future(self._watch())
        working = asyncio.ensure_future(self._work())
        try:
            try:
                await asyncio.shield(working)
            except asyncio.CancelledError:
                self._assignment.stop()
                self._check_held()
                self._wake.set()
                await asyncio.shield(working)
                raise
        finally:
            tasks = [watching, working, *self._drains.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._timer is not None:
                self._timer.cancel()

    async def _work(self) -> None:
        """Runs one round after the other until everything is released after a stop."""
        chance = random.Random()
        release_deadline: float | None = None
        while not self._assignment.is_stopped:
            self._wake.clear()
            renewals = self._assignment.renewals(self._clock(), _stamp())
            await asyncio.gather(*map(self._write, renewals))
            if self._has_read:
                now = self._clock()
                self._assignment.observe(dict(self._leases.items()), now, now)
            writes = self._assignment.plan(self._clock(), _stamp(), _first_term(), chance)
            self._check_held()
            written = await asyncio.gather(*map(self._write, writes))
            self._check_held()
            if self._assignment.is_stopping and not self._drains:
                release_deadline = release_deadline or self._clock() + _RELEASE_SECONDS
                if self._clock() > release_deadline:
                    log.warning("leases not released", extra={"leases": self._name})
                    return
            has_acquired = any(done and write.purpose == "acquire" for write, done in zip(writes, written, strict=True))
            # after an acquisition the next round comes soon, and first shows which other replicas acquire
            pace = 0.25 if has_acquired else chance.uniform(0.8, 1.2)
            seconds = pace * self._duration / 15
            until_renewal = self._assignment.next_renewal() - self._clock()
            if until_renewal > 0:  # one that failed is repeated in the next round
                seconds = min(seconds, until_renewal)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    def _check_held(self) -> None:
        """Reports a change of the held slots, and starts to drain those that this replica loses or releases."""
        now = self._clock()
        self._assignment.expire(now)
        if (held := self._assignment.held(now)) != self._reported:
            log.info(
                "leases held", extra={"leases": self._name, "held": sorted(held), "before": sorted(self._reported)}
            )
            changed, self._reported = held ^ self._reported, held
            self._on_change(changed)
        for slot in self._assignment.draining - self._drains.keys():
            self._drains[slot] = asyncio.ensure_future(self._drain_slot(slot))
        if self._timer is not None:
            self._timer.cancel()
        if (expiry := self._assignment.next_expiry(now)) is not None:
            self._timer = asyncio.get_running_loop().call_later(expiry - now, self._check_held)

    async def _drain_slot(self, slot: int) -> None:
        try:
            await self._drain(slot)
        except Exception:
            log.exception("drain failed", extra={"leases": self._name, "slot": slot})
        finally:
            del self._drains[slot]
            self._assignment.drained(slot)
            self._check_held()
            self._wake.set()

    async def _watch(self) -> None:
        """Keeps `_leases` up to date, until it is cancelled. A watch costs the API server less than reading again."""
        while True:
            try:
                version = await self._read()
                await self._follow(version)
            except (Refused, OSError, TimeoutError) as error:
                log.debug("watch of leases ended", extra={"leases": self._name, "problem": str(error)})
            await asyncio.sleep(self._duration / 15)

    async def _read(self) -> str:
        """Reads all Leases. Returns the version from which the watch goes on."""
        self._is_outdated.clear()
        self._leases.begin_list()
        try:
            async with asyncio.timeout(self._duration / 5):
                labels = {LABEL: self._name}
                listed, version = await self._api.snapshot(API_VERSION, KIND, self._namespace, labels)
                by_name = {found["metadata"]["name"]: found for found in listed}
                leases: dict[int, tuple[Version, Lease]] = {}
                for slot in range(self.count):
                    name = self._name_of(slot)
                    found = by_name.get(name) or await self._api.get(API_VERSION, KIND, self._namespace, name)
                    if found is not None:
                        leases[slot] = Version.of(found), lease_of(found)
        except (Refused, OSError, TimeoutError) as error:
            self._log_failure("leases not read", error)
            raise
        if self._is_failing:
            self._is_failing = False
            log.info("leases read again", extra={"leases": self._name})
        self._leases.replace(leases)
        self._has_read = True
        return version

    async def _follow(self, version: str) -> None:
        """Takes the changes of the Leases until the watch ends, brings nothing, or turns out to be behind."""
        changes = self._api.changes(API_VERSION, KIND, self._namespace, {LABEL: self._name}, version)
        outdated = asyncio.ensure_future(self._is_outdated.wait())
        try:
            async with aclosing(changes):
                while True:
                    change = asyncio.ensure_future(anext(changes, None))
                    # a holder renews more often than this, so that silence means that the connection is dead
                    await asyncio.wait({change, outdated}, timeout=self._duration, return_when=asyncio.FIRST_COMPLETED)
                    if not change.done():
                        change.cancel()
                        await asyncio.wait({change})
                        return
                    if (event := change.result()) is None:
                        return
                    kind, found = event
                    for slot in range(self.count):
                        if self._name_of(slot) == found["metadata"]["name"]:
                            self._take(slot, found, deleted=kind == "DELETED")
        finally:
            outdated.cancel()

    def _take(self, slot: int, found: Object, *, deleted: bool = False) -> None:
        """Takes a watch event or the answer to a write."""
        if deleted:
            self._leases.delete(slot, Version.of(found))
        else:
            self._leases.update(slot, Version.of(found), lease_of(found))

    async def _write(self, write: LeaseWrite) -> bool:
        sent_at = self._clock()
        wanted = self._object_of(write.slot, write.lease)
        try:
            async with asyncio.timeout(self._duration / 5):
                if write.lease.version:
                    made = await self._api.replace(wanted)
                else:
                    made = await self._api.create(wanted)
        except (Refused, OSError, TimeoutError) as error:
            if isinstance(error, Refused) and error.status == 409:  # another replica wrote first
                self._is_outdated.set()
            else:
                self._log_failure("lease not written", error)
            return False
        self._take(write.slot, made)
        self._assignment.written(write, sent_at, self._clock(), made["metadata"]["resourceVersion"])
        return True

    def _log_failure(self, text: str, error: Exception) -> None:
        """Logs a warning for the first of several failures in a row."""
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
    """The slot of the object with this uid, the same in every process."""
    return zlib.crc32(uid.encode()) % count


def lease_of(found: Object) -> Lease:
    """The Lease object's fields that the assignment needs."""
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
    """Minutes since 1970, so that the terms of a recreated Lease are higher than those of the deleted one."""
    return int(time.time() // 60)
