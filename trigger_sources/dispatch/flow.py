"""One trigger's flow to one function, from prepare to closed, with the one task that pulls."""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from trigger_sources.backoff import Backoff
from trigger_sources.context import SourceError, State
from trigger_sources.dead_letters import DeadLetter, DeadLetters, DeadLettersOfFunctions
from trigger_sources.delivery import STOPPING, Delivery, Outcome
from trigger_sources.dispatch.counters import Counters, Reading
from trigger_sources.dispatch.dispatcher import Dispatcher
from trigger_sources.dispatch.former_places import former_places, remember_place
from trigger_sources.dispatch.former_target import TARGET_KEY, former_of
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.handover import drain, withdraw
from trigger_sources.dispatch.held import Identity, LaneView, Seen
from trigger_sources.dispatch.host import Host
from trigger_sources.dispatch.login_text import login_of
from trigger_sources.dispatch.redrive import redrive
from trigger_sources.dispatch.replies import open_publisher
from trigger_sources.dispatch.status import (
    STARTING,
    Condition,
    ConditionStatus,
    Facts,
    FlowStatus,
    connected_of,
    delivering_of,
    fails_of,
    ready_of,
)
from trigger_sources.http_requests import Requests, Route
from trigger_sources.inbox import Inbox
from trigger_sources.light_event import LightEvent
from trigger_sources.source import Lag, TriggerSource
from trigger_sources.spec import SecretRef
from trigger_sources.transport.resolver import resolver

log = logging.getLogger(__name__)
T = TypeVar("T")

_RESTART_FIRST_SECONDS = 0.2
_RESTART_MAX_SECONDS = 15.0
_RUNS_WELL_SECONDS = 60.0
_UNREACHED_FIRST_SECONDS = 5.0  # a former place of dead letters may be gone for good
_UNREACHED_MAX_SECONDS = 300.0
_PREPARE_MAX_SECONDS = 5.0
_LAG_SECONDS = 5.0
_READ_SECONDS = 1.0  # no read of a source takes longer
_CLOSE_SECONDS = 10.0
_LOOK_SECONDS = 0.5  # for what changes without a word to this flow
_WAITS_SAID_SECONDS = 10.0  # for memory, before a condition says so
_FAILS_SAID_SECONDS = 30.0  # in which every attempt fails, before the trigger's status says so
_LEAST_READ_AHEAD = 64 * 1024
_MOST_READ_AHEAD = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Takes:
    """How a flow comes to its place: whether its function is the trigger's only one, and the functions that ended."""

    sole: bool
    ended: Collection[str] = ()


_numbers = itertools.count(1)


SUSPENDED_BY_SPEC = "spec.suspend is true"


class Flow:
    """Runs one source for one function until it is stopped. Made, run and stopped in one event loop.

    `predecessors` are the tasks of earlier flows of the trigger, which still settle what they took. This flow serves
    its route in their place. Until they end, it starts no ordered event and takes nothing from the inbox.
    """

    def __init__(
        self,
        trigger: TriggerSource,
        *,
        kind: str,
        namespace: str,
        name: str,
        uid: str,
        function: str,
        gate: Gate,
        host: Host,
        gate_of: Callable[[str], Gate],
        observe: Callable[[Seen], None] | None = None,
        may_start: Callable[[], bool] | None = None,
        jitter: Callable[[], float] = random.random,
        predecessors: Collection[asyncio.Task[None]] = (),
        takes: Takes | None = None,
        counters: Counters | None = None,
        suspended_by: str = SUSPENDED_BY_SPEC,
    ) -> None:
        self.number = next(_numbers)  # of this process, in the order of their starts
        self.succeeds = bool(predecessors)
        self.predecessors = set(predecessors)
        self.first_report = LightEvent()  # the source serves its route, or it reports, or the flow stops
        self.trigger = trigger
        self.identity = Identity(kind, namespace, name, uid, function)
        self.gate = gate
        self._host = host
        self._gate_of = gate_of
        self._owner = f"{uid}/{function}/{self.number}"
        state = host.store.state(uid, function)
        self.dispatcher = Dispatcher(
            trigger,
            self.identity,
            gate,
            state=state,
            limit=_limit_of(trigger),
            observe=observe,
            may_start=self._in_order(may_start) if self.succeeds else may_start,
            jitter=jitter,
            counters=counters,
            loop_time=host.loop_time,
        )
        for task in predecessors:
            task.add_done_callback(self._predecessor_ended)
        self.context = FlowContext(self, host, state)
        self.lag: Lag | None = None
        self.connected: tuple[bool, str, str] = (False, STARTING, "")
        self.completed = False
        self._stop = LightEvent()
        self._grace_seconds = 0.0
        self._stopped = LightEvent()
        self._pump: asyncio.Task[None] | None = None
        self._beside: list[asyncio.Task[None]] = []  # the tasks beside the pump
        self._needs_dead_letters = True
        self._extends = False
        self._takes = takes if trigger.route(name) is None else None  # requests have no place
        self._suspended_by = suspended_by
        self._begins_anew = ""  # the message for a flow that went on at no former function's place
        self._since: dict[str, tuple[str, float]] = {}
        self._waits_since = 0.0  # for memory, in seconds of the monotonic clock; 0: it does not wait
        self._fails_since = 0.0  # when the source first failed in this series of failures; 0: it runs well

    @property
    def dead_letters(self) -> DeadLetters | None:
        return self.dispatcher.letters.store

    async def open_dead_letters(self) -> DeadLetters | None:
        """Opens the dead letters of a suspended trigger when someone asks for them. None while the trigger starts.

        Raises SourceError, or what the transport raises.
        """
        if self.dead_letters is None and self.trigger.suspend and not self._stop.is_set():
            await self._prepare_dead_letters()
        return self.dead_letters

    async def former_places(self, unreached: Callable[[str], None]) -> list[DeadLettersOfFunctions]:
        """The places of dead letters that the spec named before. `unreached` hears of those that cannot be reached.

        Raises SourceError, or what the transport raises.
        """
        present, identity = self.dead_letters, self.identity
        if present is None:
            return []
        own = partial(self._host.store.dead_letters, identity.uid, identity.function)
        return await former_places(self.trigger, self.context, present, own, unreached)

    async def run(self) -> None:
        """Returns once stopped. A source that fails is restarted; only a fault of ours is raised."""
        tasks = self._beside
        try:
            if self.trigger.suspend:
                await self._stop.wait()
                return
            self.dispatcher.room.account = self._host.memory.open()
            if not await self._until_prepared():
                return
            self._pump = asyncio.create_task(self._pull())
            tasks.append(asyncio.create_task(self._count_letters()))
            if self.trigger.has_lag or self.trigger.route(self.identity.trigger) is None:
                tasks.append(asyncio.create_task(self._watch()))
            await self._stop.wait()  # a completed source stays to be looked at
            await self._end_pull()
        finally:
            if self._pump is not None:
                tasks.append(self._pump)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.dispatcher.aclose()
            if (account := self.dispatcher.room.account) is not None:
                account.use(0)
                account.close()
            await self._close_all()
            self._stopped.set()

    async def stop(self, grace_seconds: float = 30.0) -> None:
        """Takes no more, lets what was taken settle within the grace, gives the rest back, and closes the source."""
        self._grace_seconds = grace_seconds
        self._stop.set()
        self.first_report.set()
        await self._stopped.wait()

    # --- beside a predecessor

    def _in_order(self, may_start: Callable[[], bool] | None) -> Callable[[], bool] | None:
        """`may_start`, and for an ordered trigger only after the events of its predecessors."""
        if self.trigger.lanes == "none":
            return may_start
        return lambda: not self.predecessors and (may_start is None or may_start())

    def _predecessor_ended(self, task: asyncio.Task[None]) -> None:
        self.predecessors.discard(task)
        self.dispatcher.nudge()

    # --- pulling

    async def _pull(self) -> None:
        """The pump: the one task that owns the generator, and does nothing else."""
        backoff = Backoff(_RESTART_FIRST_SECONDS, _RESTART_MAX_SECONDS)
        while not self._stop.is_set():
            generator = self.trigger.deliveries(self.context)
            started = time.monotonic()
            try:
                await self._pull_from(generator)
                if not self.dispatcher.draining.is_set():
                    self.completed = True
                    self._report(True, "Completed", "the source has no more events")
                return
            except SourceError as error:
                self._report(False, error.reason, str(error))
                problem = str(error)
            except (Exception, asyncio.CancelledError) as error:  # the source is started again after any exception
                if _is_cancelled(error):
                    raise
                problem = f"{type(error).__name__}: {error}"
                if self.connected != (False, "SourceFailed", problem):  # the same traceback fills no log
                    log.warning("source failed", extra=self._where(), exc_info=True)
                self._report(False, "SourceFailed", problem)
            finally:
                await _close(generator)
            if time.monotonic() - started > _RUNS_WELL_SECONDS:
                backoff.reset()
                self._fails_since = 0.0
            self._fails_since = self._fails_since or time.time()
            seconds = backoff.next()
            log.info("source restarts", extra={**self._where(), "seconds": seconds, "problem": problem})
            self.dispatcher.counters.restarts += 1
            await _first(self._stop.wait(), seconds)

    async def _pull_from(self, generator: AsyncIterator[Sequence[Delivery]]) -> None:
        dispatcher, room = self.dispatcher, self.dispatcher.room
        waits, draining = not self.trigger.callers_wait, dispatcher.draining
        while True:
            while not draining.is_set():
                if room.is_full:  # asked after each event that leaves: it costs less than `free`
                    self._waits_for_memory(waits=False)
                    await dispatcher.room_changes(None)
                elif room.free == 0:
                    self._waits_for_memory(waits=True)
                    await dispatcher.room_changes(_LOOK_SECONDS)
                elif waits and not dispatcher.pulls:
                    await dispatcher.room_changes(_LOOK_SECONDS)
                else:
                    break
            self._waits_for_memory(waits=False)
            if draining.is_set():
                break
            try:
                deliveries = await anext(generator)
            except StopAsyncIteration:
                return
            if draining.is_set():
                await dispatcher.give_back(deliveries)
                break
            if deliveries:
                if not self._extends and deliveries[0].extend is not None:
                    self._extends = True
                    self._beside.append(asyncio.create_task(self._extend()))
                dispatcher.take(deliveries)
            else:
                await asyncio.sleep(0)  # a source that yields nothing, and does not wait, must not keep the loop
        await self.context.stopping.wait()  # the generator stays open while what it gave settles

    def _waits_for_memory(self, *, waits: bool) -> None:
        if waits != bool(self._waits_since):
            self._waits_since = time.monotonic() if waits else 0.0

    async def _end_pull(self) -> None:
        await drain(self.dispatcher, self._grace_seconds)
        self.context.stopping.set()
        assert self._pump is not None
        # A source that closes in order commits the last acknowledgements: cut short, it would repeat those events
        await asyncio.wait({self._pump}, timeout=_READ_SECONDS + _CLOSE_SECONDS)

    # --- beside the pump

    async def _until_prepared(self) -> bool:
        """Whether everything that is needed is there now; False when stopped before."""
        backoff = Backoff(_RESTART_FIRST_SECONDS, _PREPARE_MAX_SECONDS)
        while not self._stop.is_set():
            try:
                await self._take_place()
                await self.trigger.prepare(self.context)
                dispatcher = self.dispatcher
                await self._prepare_dead_letters()
                if self.trigger.reply is not None and dispatcher.replies is None:
                    publisher = await open_publisher(
                        self.trigger.reply,
                        self.context,
                        self.trigger.addresses,
                        self._gate_of,
                        resolver(self._host.reach, self.context.namespace),
                    )
                    dispatcher.reply_through(publisher)
                return True
            except SourceError as error:
                self._report(False, error.reason, str(error))
            except (Exception, asyncio.CancelledError) as error:  # any exception of a client without its broker
                if _is_cancelled(error):
                    raise
                self._report(False, "NotPrepared", f"{type(error).__name__}: {error}")
                log.debug("not prepared", extra=self._where(), exc_info=True)
            await _first(self._stop.wait(), backoff.next())
        return False

    async def _take_place(self) -> None:
        """Goes on at the place of the trigger's former function, if an edit replaced it. Raises SourceError."""
        takes, store, identity = self._takes, self._host.store, self.identity
        if takes is None:
            return
        if not takes.sole:
            await store.state(identity.uid, "").delete(TARGET_KEY)
        else:
            function = identity.function
            found = await store.hand_over(identity.uid, function, partial(former_of, function, takes.ended))
            if found.function is not None:
                log.info(
                    "goes on at the place of the former function", extra={**self._where(), "former": found.function}
                )
            if found.candidates:
                self._begins_anew = (
                    f"{function} begins anew, since several functions had a place: {', '.join(found.candidates)};"
                    " to go on at one of these places, let the trigger call that function first, and then this one"
                )
                log.warning("begins anew", extra={**self._where(), "problem": self._begins_anew})
        self._takes = None

    async def _prepare_dead_letters(self) -> None:
        letters = self.dispatcher.letters
        if letters.store is None:
            beside = self.trigger.dead_letters(self.context)
            await remember_place(self.trigger, self.context)
            letters.store = beside or self._host.store.dead_letters(self.identity.uid, self.identity.function)
            # A trigger that never needs dead letters does without the fabric's own store
            self._needs_dead_letters = beside is not None or self.trigger.needs_dead_letters
        if self._needs_dead_letters:
            await letters.store.prepare()

    async def _watch(self) -> None:
        """Asks for the lag, and tells the memory of a source that has ended."""
        while True:
            try:
                async with asyncio.timeout(_LAG_SECONDS * 2):  # not wait_for: it may swallow that we are cancelled
                    self.lag = await self.trigger.lag(self.context)
            except Exception as error:  # noqa: BLE001  lag is for looking at; the flow goes on without it
                log.debug("lag not known", extra={**self._where(), "error": repr(error)})
            if (account := self.dispatcher.room.account) is not None:
                account.use(self.dispatcher.room.memory)  # nothing else says so for a source that has ended
            await asyncio.sleep(_LAG_SECONDS)

    async def _count_letters(self) -> None:
        """Counts the dead letters that there are at the start, however long that takes."""
        letters = self.dispatcher.letters
        backoff = Backoff(_RESTART_FIRST_SECONDS, _RESTART_MAX_SECONDS)
        rarely = Backoff(_UNREACHED_FIRST_SECONDS, _UNREACHED_MAX_SECONDS)
        while letters.store is not None:
            unreached: list[str] = []
            try:
                former = sum([await place.count() for place in await self.former_places(unreached.append)])
                letters.count = former + await letters.store.count()  # the last one: events end there meanwhile
                if not unreached:
                    return
            except Exception as error:  # noqa: BLE001  the number is for looking at; the flow goes on without it
                log.debug("dead letters not counted", extra={**self._where(), "error": repr(error)})
            await asyncio.sleep((rarely if unreached else backoff).next())

    async def _extend(self) -> None:
        while True:
            await asyncio.sleep(self.trigger.extend_seconds)
            await self.dispatcher.extend()

    async def _close_all(self) -> None:
        for closing in (self.dispatcher.replies, self.dispatcher.letters.store):
            if closing is None:
                continue
            try:
                await asyncio.wait_for(closing.close(), _CLOSE_SECONDS)
            except Exception:
                log.warning("not closed in order", extra=self._where(), exc_info=True)
        await self._host.release(self._owner)

    # --- looking

    def status(self) -> FlowStatus:
        dispatcher, facts = self.dispatcher, self._facts()
        return FlowStatus(
            conditions=(
                self._condition("Ready", *ready_of(facts)),
                self._condition("Connected", *connected_of(facts)),
                self._condition("Delivering", *delivering_of(facts)),
            ),
            counters=dispatcher.counters,
            held=dispatcher.held,
            in_flight=facts.states.get("running", 0),
            lag=self.lag,
            dead_letters=dispatcher.letters.count,
            last_answer=dispatcher.last_answer,
            last_error=dispatcher.last_error,
            last_error_at=dispatcher.last_error_at,
            counters_since=dispatcher.counters.since,
            fails=f"{fails}; last: {facts.last_error}" if (fails := fails_of(facts)) else "",
        )

    def reading(self) -> Reading:
        """For metrics."""
        dispatcher, identity, facts = self.dispatcher, self.identity, self._facts()
        oldest = dispatcher.oldest_held_at
        return Reading(
            labels={
                "kind": identity.kind,
                "namespace": identity.namespace,
                "trigger": identity.trigger,
                "function": identity.function,
            },
            counters=dispatcher.counters,
            held=dispatcher.held,
            states=facts.states,
            connected=self.connected[0],
            delivering=delivering_of(facts)[0] == "True",
            oldest_seconds=0.0 if oldest is None else max(0.0, time.time() - oldest),
            dead_letters=dispatcher.letters.count,
            lag_events=self.lag.events if self.lag else None,
            lag_seconds=self.lag.seconds if self.lag else None,
            uncommitted=self.trigger.uncommitted(self.context),
            reason=connected_of(facts)[1],
            held_bytes=dispatcher.room.memory,
            waits_for_memory=bool(self._waits_since),
        )

    def redrive(
        self, letters: AsyncIterator[DeadLetter], rate_per_second: float | None, place: DeadLetters | None = None
    ) -> AsyncIterator[tuple[DeadLetter, Outcome]]:
        """Dispatches dead letters anew; yields each with its outcome. `place`: the former place that has them."""
        return redrive(self.dispatcher, letters, rate_per_second, place)

    async def fire(self) -> Outcome | None:
        """Calls the function with an event of this moment, and returns its outcome. None: the source has no such event.

        The caller waits for the outcome: the event becomes no dead letter, and a flow that stops forgets it. Then, and
        after a withdrawal, nobody settles the event: it counts as returned.
        """
        event = self.trigger.event_now(self.context)
        if event is None:
            return None
        dispatcher = self.dispatcher
        if dispatcher.draining.is_set() or self._stopped.is_set():
            return Outcome("returned", STOPPING)
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        async def settle(outcome: Outcome) -> None:
            if not ended.done():
                ended.set_result(outcome)

        delivery = Delivery(event, settle, caller_waits=True)
        dispatcher.take([delivery])
        while not ended.done():
            if self._stopped.is_set() or all(held.delivery is not delivery for held in dispatcher.events()):
                return Outcome("returned", STOPPING)
            await asyncio.wait({ended}, timeout=_LOOK_SECONDS)
        return ended.result()

    def lanes_view(self) -> list[LaneView]:
        return self.dispatcher.lanes_view()

    def release(self, lane: str | None) -> int:
        return self.dispatcher.release(lane)

    def skip(self, lane: str | None) -> int:
        return self.dispatcher.skip(lane)

    def resume(self) -> None:
        """After everything failed: go on."""
        self.dispatcher.resume()

    def _facts(self) -> Facts:
        dispatcher, (connected, reason, message) = self.dispatcher, self.connected
        fails_since = dispatcher.fails_since
        if fails_since is not None and time.time() - fails_since < _FAILS_SAID_SECONDS:
            fails_since = None
        return Facts(
            connected=connected,
            reason=reason,
            message=message,
            suspended_by=self._suspended_by if self.trigger.suspend else "",
            function_down=self.gate.is_down,
            begins_anew=self._begins_anew,
            login=login_of(self.trigger) if reason == "Unauthorized" else "",
            problem=next(self._problems(), None),
            held=dispatcher.held,
            states=dispatcher.states(),
            beside=dispatcher.room.beside > 0,
            last_error=dispatcher.last_error,
            fails_since=fails_since,
        )

    def _problems(self) -> Iterator[tuple[str, str]]:
        """The reasons and messages of what keeps events from ending, the worst first."""
        dispatcher = self.dispatcher
        if dispatcher.letters.unwritable:
            yield "DeadLettersUnwritable", dispatcher.letters.unwritable
        if dispatcher.replies is not None and (unpublished := dispatcher.replies.unpublished):
            yield "RepliesUnpublished", unpublished
        if self.gate.is_down:
            yield "FunctionDown", f"{self.identity.function}: {self.gate.down_reason}"
        if dispatcher.hold.since is not None:
            filters = dispatcher.hold.reason == "FilterFails"
            text = f"last: {dispatcher.last_error}; one event is tried every 30 s"
            yield dispatcher.hold.reason, self._filter_fails() if filters else text
        if dispatcher.is_filled_by_lanes:
            yield "LaneFull", self._lane_full()
        if self._waits_since and time.monotonic() - self._waits_since >= _WAITS_SAID_SECONDS:
            yield "MemoryFull", self._memory_full()

    def _filter_fails(self) -> str:
        return (
            f"spec.filter ({self.trigger.filter}) fails on each of the first {self.trigger.delivery.hold_after} events;"
            f" last: {self.dispatcher.last_error}; correct it, and redrive the dead letters afterwards"
        )

    def _lane_full(self) -> str:
        longest = max(self.dispatcher.lanes_view(), key=lambda lane: lane.events)
        return (
            f"{self.dispatcher.held} events are held, {longest.events} of them in one lane that is stuck "
            f"({longest.message or longest.state}); nothing more is taken until it moves: mend the function, or "
            "`kubeirq lanes release` or `skip` it"
        )

    def _memory_full(self) -> str:
        mib = self._host.memory.limit / 2**20
        return (
            f"all triggers of this process may hold {mib:.0f} MiB of events, and this one has its share; nothing more "
            "is taken until some of them settle: the metric kubeirq_held_bytes shows who holds most; mend that "
            "function, or give the process more memory"
        )

    def _condition(self, name: str, status: ConditionStatus, reason: str, message: str) -> Condition:
        shown, since = self._since.get(name, ("", 0.0))
        if shown != status:
            since = time.time()
            if status == "False" and name != "Delivering" and self._fails_since:
                since = min(since, self._fails_since)  # a source that fails at each restart is not new each time
            self._since[name] = (status, since)
        return Condition(name, status, reason, message, since)

    def _report(self, connected: bool, reason: str, message: str) -> None:
        if self.connected != (connected, reason, message):
            if self.connected[:2] != (connected, reason):
                log.log(
                    logging.INFO if connected else logging.WARNING,
                    "source connected" if connected else "source not connected",
                    extra={**self._where(), "reason": reason, "problem": message},
                )
            self.connected = (connected, reason, message)
            self.status()  # the conditions hold from now on, and not from when somebody first looks
        self.first_report.set()

    def _where(self) -> dict[str, str]:
        return {"trigger": f"{self.identity.namespace}/{self.identity.trigger}", "function": self.identity.function}


class FlowContext:
    """The fabric's side of `Context`: the requests of a source, answered by its flow."""

    def __init__(self, flow: Flow, host: Host, state: State) -> None:
        identity = flow.identity
        self.namespace = identity.namespace
        self.name = identity.trigger
        self.uid = identity.uid
        self.function = identity.function
        self.replica = host.replica
        self.draining = flow.dispatcher.draining
        self.stopping: asyncio.Event = LightEvent()
        self.state = state
        self.defaults = host.defaults
        self.own_servers = host.own_servers
        self._flow = flow
        self._host = host
        self.uses_inbox = False

    @property
    def limit(self) -> int:
        return self._flow.dispatcher.room.limit

    @property
    def room(self) -> int:
        # A trigger has one inbox, and a predecessor gives back all that is taken from it
        if self.draining.is_set() or (self.uses_inbox and self._flow.predecessors):
            return 0
        return self._flow.dispatcher.room.free

    @property
    def read_ahead_bytes(self) -> int:
        return max(_LEAST_READ_AHEAD, min(self._host.memory.floor, _MOST_READ_AHEAD))

    async def secret(self, reference: SecretRef) -> str:
        return await self._host.secret(self.namespace, reference)

    def report(self, *, connected: bool, reason: str = "", message: str = "") -> None:
        self._flow._report(connected, reason, message)

    def report_lost(self, count: int, reason: str) -> None:
        self._flow.dispatcher.counters.lost += count
        log.error("events lost by the source", extra={**self._flow._where(), "count": count, "reason": reason})

    def report_refused(self, count: int) -> None:
        self._flow.dispatcher.counters.refused += count

    async def withdraw(self, lost: Callable[[Delivery], bool], grace_seconds: float) -> None:
        if (
            self.uses_inbox and self._flow.predecessors
        ):  # the inbox is about to be given back, and they hold events of it
            await asyncio.wait(self._flow.predecessors, timeout=grace_seconds)
        await withdraw(self._flow.dispatcher, lost, grace_seconds)

    def start_only_while(self, may_start: Callable[[], bool]) -> Callable[[], None]:
        self._flow.dispatcher.start_only_while(may_start)
        return self._flow.dispatcher.nudge

    @asynccontextmanager
    async def requests(self, route: Route) -> AsyncGenerator[Requests, None]:
        flow = self._flow
        gateway = self._host.gateway
        async with gateway.requests(
            self.uid, route, flow=flow.number, supersedes=flow.succeeds, refused=self.report_refused
        ) as requests:
            flow.first_report.set()
            yield requests

    def inbox(self) -> Inbox:
        self.uses_inbox = True
        return self._host.store.inbox(self.uid)

    async def shared(self, key: str, open: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]) -> T:
        return await self._host.shared(self._flow._owner, key, open, close)


def _limit_of(trigger: TriggerSource) -> int:
    """How many events may be held. Lanes need depth, so that one stuck key does not fill the room of all others."""
    if trigger.lanes == "none":
        return max(64, 4 * trigger.concurrency)
    return max(2_000, 8 * trigger.concurrency)


async def _first(waiting: Awaitable[object], seconds: float | None) -> None:
    """Waits for it, or for so long."""
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        return


def _is_cancelled(error: BaseException) -> bool:
    """Whether this task is cancelled, and not one that a source's client runs and waits for."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def _close(generator: AsyncIterator[Sequence[Delivery]]) -> None:
    if not isinstance(generator, AsyncGenerator):
        return
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await generator.aclose()
    except (Exception, asyncio.CancelledError) as error:
        if _is_cancelled(error):
            raise
        log.warning("source not closed in order", exc_info=True)
