"""Drives each event of one trigger and function through the table of its life: calls, retries, settles.

The dispatcher is the only driver of `life.py`. It finds out what happened to an event (an answer came, a timer fired, a
person acted), turns that into one of the table's inputs, and carries out the actions of the row. Policies have files of
their own: `room.py`, `hold.py`, `suspects.py`, `letter_writer.py`, `reply_sender.py`, `untold.py`, `retry.py`,
`handover.py` and `redrive.py`.
"""

import asyncio
import logging
import random
import sys
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from trigger_sources.context import State as DurableState
from trigger_sources.dead_letters import DeadLetter
from trigger_sources.delivery import Answer, AnswerRefused, Attempt, Delivery, Outcome, OutcomeKind
from trigger_sources.dispatch.call import call_of
from trigger_sources.dispatch.counters import Counters
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.held import ANSWER_HEAD_BYTES, Held, Identity, LaneView, Seen
from trigger_sources.dispatch.hold import LANES_TRIED, FailureHold
from trigger_sources.dispatch.lanes import Lanes
from trigger_sources.dispatch.letter_writer import LetterWriter
from trigger_sources.dispatch.life import LIFE, Action, IllegalInput, Input, Label, State
from trigger_sources.dispatch.loop_time import LoopTime
from trigger_sources.dispatch.observer import Observer
from trigger_sources.dispatch.reasons import failure_text, reason_of
from trigger_sources.dispatch.reply_sender import ReplyFailed, ReplySender
from trigger_sources.dispatch.retry import Verdict, after_failure, delay_after, retry_after_of, verdict_on
from trigger_sources.dispatch.room import Room
from trigger_sources.dispatch.screening import Screening, Uncalled
from trigger_sources.dispatch.suspects import Suspects
from trigger_sources.dispatch.untold import Untold
from trigger_sources.light_event import LightEvent
from trigger_sources.publisher import Publisher, ReplyRefused
from trigger_sources.source import TriggerSource
from trigger_sources.transport.client import ConnectionLost, NoAnswer, Stale, Unreachable

if TYPE_CHECKING:
    from trigger_sources.dispatch.filter_streak import FilterStreak

log = logging.getLogger(__name__)

# Attributes of an Enum are found slowly, and each event needs these
_TAKEN, _STARTED, _DECIDED, _SETTLED = Input.TAKEN, Input.STARTED, Input.DECIDED, Input.SETTLED


class Dispatcher:
    """One trigger's events for one function. Lives in one event loop; nothing here is thread-safe.

    `observe` hears of everything that happens to an event. `may_start` says whether this replica may start events just
    now; after it said no, `nudge` makes the dispatcher ask again. `jitter` returns a number from 0 to 1. `counters` are
    those of earlier dispatchers of this trigger and function. `loop_time` is shared by all dispatchers of the process.
    """

    __slots__ = (  # a process has thousands of them
        "_alone", "_concurrency", "_delivered", "_delivered_before", "_fails_since", "_gate", "_held", "_host_allows",
        "_jitter", "_lanes", "_last_error", "_loop_time", "_may_start", "_newest", "_observer", "_ordering",
        "_places_taken", "_policy", "_room_moved", "_screening", "_starting", "_suspects", "_tasks", "_trigger",
        "_untold", "_wake", "_where", "counters", "draining", "hold", "identity", "last_answer", "last_error_at",
        "letters", "replies", "room",
    )  # fmt: skip

    def __init__(
        self,
        trigger: TriggerSource,
        identity: Identity,
        gate: Gate,
        *,
        state: DurableState,
        limit: int,
        observe: Callable[[Seen], None] | None = None,
        may_start: Callable[[], bool] | None = None,
        jitter: Callable[[], float] = random.random,
        counters: Counters | None = None,
        loop_time: LoopTime | None = None,
    ) -> None:
        self.identity = identity
        self.counters = counters or Counters()
        self.room = Room(limit)
        self.draining: asyncio.Event = LightEvent()  # set when the flow begins to stop: nothing more is taken
        self.last_answer: tuple[int, float, float] | None = None  # status, epoch seconds, latency in seconds
        self._last_error = ""
        self.last_error_at: float | None = None  # seconds since the epoch
        self._fails_since = 0.0  # the first of the failures between two delivered events, in seconds since the epoch
        self._delivered_before = -1  # the number of events that were delivered before that failure
        where = {"trigger": f"{identity.namespace}/{identity.trigger}", "function": identity.function}
        self.letters = LetterWriter(where)
        self.hold = FailureHold(trigger.delivery.hold_after, self._kick, where)
        self.replies: ReplySender | None = None  # None: the function's answers are published nowhere
        self._where = where
        self._trigger = trigger
        self._policy = trigger.delivery
        self._ordering = trigger.lanes
        self._concurrency = trigger.concurrency
        self._gate = gate
        self._observer = Observer(identity, observe) if observe is not None else None
        # None if deliveries are not told. A field of its own, since each delivered event asks for it
        self._delivered = self._observer if self._observer is not None and self._observer.sees_deliveries else None
        self._host_allows = self._may_start = may_start
        self._jitter = jitter
        self._loop_time = loop_time or LoopTime()
        self._screening = Screening(trigger, self.hold, self.counters, self._tell_types)
        self._suspects = Suspects(state)
        self._held: dict[Hashable, Held] = {}
        self._untold = Untold()
        self._lanes: Lanes[Held] = Lanes()
        self._places_taken = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = False
        self._room_moved: asyncio.Event | None = None  # None while nobody waits for it
        self._alone: Held | None = None  # a suspect event that runs: nothing else starts
        self._wake = self._kick  # the same object each time, for the gate
        self._newest: Delivery  # the hand-out that REPLACE takes

    # --- looking

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def last_error(self) -> str:
        return self._last_error

    @last_error.setter
    def last_error(self, text: str) -> None:
        self._last_error = text
        self.last_error_at = time.time()

    @property
    def fails_since(self) -> float | None:
        """When the first attempt failed after the last delivered event; None while no event waits that failed."""
        if self._delivered_before != self.counters.delivered or not any(held.first_at for held in self._held.values()):
            return None
        return self._fails_since

    def events(self) -> list[Held]:
        """The events that are held, oldest first."""
        return list(self._held.values())

    @property
    def is_filled_by_lanes(self) -> bool:
        """Whether nothing more is taken until a lane moves whose first event has failed."""
        failed = (held for held in self._held.values() if held.is_stuck or (held.runs and held.first_at))
        return self.room.is_filled_by((held.lane, held.size) for held in failed)

    @property
    def pulls(self) -> bool:
        """Whether it makes sense to take more: not while everything fails, or events wait for a function that is down.

        Without an event, nothing would find out that the function is back: the next one is the probe.
        """
        if self.hold.since is not None and self.hold.reason == "EverythingFails":
            # Events behind the first of their lane cannot be tried, and neither can a lane that waits for a person
            return sum(held.first and held.state is not State.PARKED for held in self._held.values()) < LANES_TRIED
        return not self._gate.is_down or (not self._held and self._gate.may_probe)

    @property
    def can_settle_more(self) -> bool:
        """Whether waiting lets further held events settle: not where all of them wait for a timer or a person."""
        return any(held.runs or (held.state is State.QUEUED and not self._gate.is_down) for held in self._held.values())

    @property
    def oldest_held_at(self) -> float | None:
        """When the oldest held event was taken, in seconds since the epoch."""
        return min((held.taken_at for held in self._held.values()), default=None)

    def states(self) -> dict[str, int]:
        """How many held events are in each state, by its label."""
        found: dict[str, int] = {}
        for held in self._held.values():
            label = held.state.label
            found[label] = found.get(label, 0) + 1
        return found

    @property
    def filter_streak(self) -> "FilterStreak | None":
        """The events that the filter has kept out without a break; None without a filter."""
        return self._screening.streak

    def lanes_view(self) -> list[LaneView]:
        """The lanes whose first event runs, retries, is parked or settles."""
        return [
            LaneView(
                name=held.lane_name,
                key=held.delivery.key,
                partition=held.delivery.partition,
                events=1 + (self._lanes.queued(held.lane) if held.lane is not None else 0),
                state=_label(held.state),
                since=time.time() - (time.monotonic() - held.first_at) if held.first_at else held.taken_at,
                message=held.last_message,
            )
            for held in self._held.values()
            if held.state is not State.QUEUED
        ]

    async def room_changes(self, seconds: float | None) -> None:
        """Returns once an event is held no longer, or after so many seconds."""
        if self._room_moved is None:
            self._room_moved = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._room_moved.wait()
        except TimeoutError:
            return

    def _tell_of_room(self) -> None:
        """Wakes those that wait for room."""
        if self._room_moved is not None:
            self._room_moved.set()
            self._room_moved = None

    # --- taking

    def take(self, deliveries: Iterable[Delivery]) -> None:
        """Takes the deliveries that a source yielded. A position that is held already is not started again."""
        now = time.time()
        for delivery in deliveries:
            self._take(delivery, now)
        self._kick()

    def take_again(self, delivery: Delivery, letter: DeadLetter) -> str:
        """Takes the event of a dead letter. Returns why it is not taken; empty if it is.

        `Stopping`: the flow stops. `InFlight`: its position is held already. `LaneParked`: it would wait for a person.
        """
        if self.draining.is_set():
            return "Stopping"
        if letter.position in self._held:
            return "InFlight"
        if self._policy.on_failure == "park" and self._is_parked(self._lane_of(delivery)):
            return "LaneParked"
        held = self._take(delivery, time.time())
        if held is not None:
            held.history = letter.attempts
            held.redriven = letter.redriven + 1
            held.checked = letter.reason != "FilterError"
        self._kick()
        return ""

    def _is_parked(self, lane: Hashable | None) -> bool:
        return lane is not None and any(
            held.lane == lane and held.state is State.PARKED for held in self._held.values()
        )

    async def give_back(self, deliveries: Iterable[Delivery]) -> None:
        """Gives back deliveries that came too late to be taken. Returns when the source has been told of all."""
        await asyncio.gather(*(self._return_untaken(delivery) for delivery in deliveries))

    async def _return_untaken(self, delivery: Delivery) -> None:
        try:
            await delivery.settle(Outcome("returned", "Stopping"))
        except Exception as error:  # noqa: BLE001  the source hands it out again in any case
            self._log_unsettled(delivery, error)

    def _take(self, delivery: Delivery, now: float) -> Held | None:
        position = delivery.position
        if position is not None:
            known = self._held.get(position) or (self._untold.get(position) if self._untold else None)
            if known is not None:
                self._hand_out_again(known, delivery)
                return None
        held = Held(delivery, self._lane_of(delivery), now)
        if delivery.handed_out > 1:
            held.suspect = Suspects.is_suspect(delivery)
        held.checked = not (self._screening.is_needed or delivery.unreadable)
        self._step(held, _TAKEN)
        if delivery.caller_waits and self._gate.is_down and not self._gate.may_probe:
            self._refuse(held)
            return None
        return held

    def _lane_of(self, delivery: Delivery) -> Hashable | None:
        if self._ordering != "key":
            return delivery.partition if self._ordering == "partition" else None
        # Two partitions may hold the same key when a topic was grown: order is per partition, as at the broker
        return None if delivery.key is None else (delivery.partition, delivery.key)

    # --- the table at work

    def give(self, held: Held, given: Input) -> None:
        """Something happened to an event from outside. Starts nothing: call `nudge` afterwards."""
        self._step(held, given)

    def _step(self, held: Held, given: Input) -> None:
        """One row of the table. Raises IllegalInput where it has none."""
        try:
            held.state, actions = _ROWS[held.state][given]
        except KeyError:
            raise IllegalInput(f"{given.name} in state {held.state.name}") from None
        for action in actions:
            action(self, held)

    def _hand_out_again(self, held: Held, delivery: Delivery) -> None:
        """The source hands the position out again, while its event is held or its outcome is remembered."""
        self.counters.redelivered += 1
        self._newest = delivery
        self._step(held, Input.HANDED_OUT)

    # --- actions, by their names in the table

    def _enter(self, held: Held) -> None:
        position = held.delivery.position
        self._held[position if position is not None else held] = held
        room = self.room
        room.events += 1
        room.bytes += held.size
        self.counters.received += 1
        if not self._lanes.add(held.lane, held):
            held.first = False
            room.queue(held.lane, held.size)

    def _unqueue(self, held: Held) -> None:
        ready = self._lanes.ready
        if ready and ready[0] is held:
            ready.popleft()
        else:
            self._lanes.take_out(held.lane, held, first=held.first)

    def _call(self, held: Held) -> None:
        self._places_taken += 1
        delivery, endpoint = held.delivery, self._gate.endpoint
        try:
            method, target, headers, body = call_of(delivery, held.tries + 1, endpoint.path)
            held.called_at = time.monotonic()
            held.work = endpoint.start(
                method, target, headers, body, partial(self._came, held),
                timeout_seconds=self._policy.timeout_seconds,
            )  # fmt: skip
        except ValueError as problem:
            self._step(held, self._cannot_be_called(held, problem))
            return
        if held.work is None:  # no kept connection is free: a task makes one
            self._work(held, self._answer_of)

    def _call_alone(self, held: Held) -> None:
        self._places_taken += 1
        self._alone = held
        self._work(held, self._answer_alone)

    def _publish(self, held: Held) -> None:
        self._work(held, self._published)

    def _write(self, held: Held) -> None:
        self._work(held, self._written)

    def _wait(self, held: Held) -> None:
        held.timer = asyncio.get_running_loop().call_later(held.delay_seconds, self._due, held)

    def _unwait(self, held: Held) -> None:
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None

    def _renew(self, held: Held) -> None:
        held.tries = 0
        held.first_at = 0.0

    def _requeue_first(self, held: Held) -> None:
        self._lanes.ready.appendleft(held)

    def _requeue_last(self, held: Held) -> None:
        self._lanes.ready.append(held)

    def _free(self, held: Held) -> None:
        self._places_taken -= 1
        if self._alone is held:
            self._alone = None
        if self.hold.since is not None:
            self.hold.trial_over()

    def _hang_up(self, held: Held) -> None:
        self._abort(held)
        self._abandon(held)

    def _abort(self, held: Held) -> None:
        work, held.work = held.work, None
        if isinstance(work, asyncio.Task):
            work.cancel()
        elif work is not None:
            work.abort()

    def _settle(self, held: Held) -> None:
        delivery, outcome = held.delivery, held.outcome
        assert outcome is not None
        if not delivery.settles_at_once:
            self._work(held, self._told, outcome)
            return
        given = _SETTLED
        try:
            delivery.settle(outcome)
        except Exception as error:  # noqa: BLE001  a source that lost its connection will hand the position out again
            self._log_unsettled(delivery, error)
            given = Input.SETTLE_FAILED
        self._step(held, given)

    def _return(self, held: Held) -> None:
        held.outcome = Outcome("returned", "Stopping")
        self._work(held, self._told, held.outcome)

    def _replace(self, held: Held) -> None:
        held.delivery = self._newest

    def _count(self, held: Held) -> None:
        assert held.outcome is not None
        kind = held.outcome.kind
        if kind == "delivered":
            self.counters.delivered += 1
        else:
            self.counters.settled(kind)

    def _count_withdrawn(self, held: Held) -> None:
        self.counters.withdrawn += 1

    def _leave(self, held: Held) -> None:
        position = held.delivery.position
        del self._held[position if position is not None else held]
        room = self.room
        room.events -= 1
        room.bytes -= held.size
        if not held.first:
            room.unqueue(held.lane, held.size)
        elif held.lane is not None:
            following = self._lanes.finish(held.lane)
            if following is not None:
                following.first = True
                room.unqueue(held.lane, following.size)
        if self._room_moved is not None:
            self._tell_of_room()

    def _remember(self, held: Held) -> None:
        expired = self._untold.remember(held)
        if expired is not None:
            self._step(expired, Input.EXPIRED)

    def _forget(self, held: Held) -> None:
        self._untold.forget(held)

    # --- starting

    def nudge(self) -> None:
        """Starts as many events as may start: something changed that the dispatcher cannot see."""
        self._kick()

    def start_only_while(self, allows: Callable[[], bool]) -> None:
        """The source decides too whether events may start. The last call counts."""
        host_allows = self._host_allows
        self._may_start = allows if host_allows is None else lambda: host_allows() and allows()

    def take_no_more(self) -> None:
        """The flow begins to stop. Events that are held may still start."""
        self.draining.set()
        self._tell_of_room()

    def start_no_more(self) -> None:
        """From now on no event finds a place to start in."""
        self._concurrency = 0

    def _kick(self) -> None:
        if self._starting:
            return  # the caller that is starting events goes on until none may start
        self._starting = True
        ready, gate, hold, may_start = self._lanes.ready, self._gate, self.hold, self._may_start
        try:
            while ready and self._places_taken < self._concurrency:
                if hold.since is not None and not self._may_try():
                    return
                held = ready[0]
                if (
                    self._alone is not None
                    or (held.suspect and self._places_taken)  # it runs alone: the last event that ends comes by again
                    # Another replica may have taken over: the events here are about to be withdrawn
                    or (may_start is not None and not may_start())
                ):
                    return
                if not held.checked:
                    if self._loop_time.is_over:
                        self._loop_time.wait(self._wake)
                        return
                    began = time.perf_counter()
                    uncalled = self._screening.look_at(held)
                    self.counters.filter_seconds += self._loop_time.spent(began)
                    if uncalled is not None:
                        self._part_uncalled(held, uncalled)
                        continue
                    held.checked = True
                if not gate.admits(self._wake):
                    if gate.is_down:
                        self._refuse_callers()
                    return
                held.admitted = True
                if hold.since is not None:
                    hold.started()
                try:
                    self._step(held, Input.STARTED_ALONE if held.suspect else _STARTED)
                except Exception:  # noqa: BLE001  it is logged there
                    self._faulted(held)
        finally:
            self._starting = False

    def _may_try(self) -> bool:
        """While the trigger holds: whether an event may be tried now. Brings that event to the front."""
        ready = self._lanes.ready
        found = next((held for held in ready if self.hold.may_start(held.lane_or_itself)), None)
        if found is None:
            return False
        if found is not ready[0]:
            ready.remove(found)
            ready.appendleft(found)
        return True

    def _others_are_held(self, lanes: set[Hashable]) -> bool:
        return any(held.lane_or_itself not in lanes for held in self._held.values())

    def _part_uncalled(self, held: Held, found: Uncalled) -> None:
        """An event is not called. It ends, or stays in its queue."""
        if found.kind == "stays":
            self.last_error = found.message
            self._lanes.ready.rotate(-1)  # an event that the filter has not seen comes first
            return
        if found.kind != "deadLettered":
            self._step(held, self._end(held, found.kind, found.reason, found.message))
            return
        if found.reason == "FilterError":
            self.last_error = found.message
        self._step(held, self._condemn(held, found.reason, found.message, None))

    def _tell_types(self, note: str) -> None:
        """The filter compares values of different types."""
        self.last_error = f"spec.filter: {note}"
        log.warning("filter compares different types", extra={**self._where, "problem": note})

    def _refuse_callers(self) -> None:
        """The function is down. A caller that is waiting for an answer gets that answer at once."""
        for held in [held for held in self._lanes.ready if held.delivery.caller_waits]:
            self._refuse(held)

    def _refuse(self, held: Held) -> None:
        held.outcome = Outcome("dropped", "FunctionDown")
        self._step(held, _DECIDED)

    # --- a call's end

    def _came(self, held: Held, found: Answer | NoAnswer | Stale) -> None:
        """A call on a kept connection has ended."""
        held.work = None
        try:
            if not isinstance(found, Answer):
                if isinstance(found, Stale):
                    self._work(held, self._answer_of, True)
                    return
                if isinstance(found, ConnectionLost) and self._gate.why_lost is not None:
                    self._work(held, self._lost, found)
                    return
            self._step(held, self._judged(held, found))
        except Exception:  # noqa: BLE001  it is logged there
            self._faulted(held)
        self._kick()

    async def _answer_of(
        self, held: Held, fresh: bool = False, before_sent: Callable[[], Awaitable[None]] | None = None
    ) -> Input:
        """Calls the function, on a new connection if need be."""
        gate, delivery = self._gate, held.delivery
        try:
            method, target, headers, body = call_of(delivery, held.tries + 1, gate.endpoint.path)
            held.called_at = time.monotonic()
            found: Answer | NoAnswer = await gate.endpoint.send(
                method, target, headers, body,
                timeout_seconds=self._policy.timeout_seconds, fresh=fresh, before_sent=before_sent,
            )  # fmt: skip
        except ValueError as problem:
            return self._cannot_be_called(held, problem)
        except ConnectionLost as problem:
            return await self._lost(held, problem)
        except NoAnswer as problem:
            found = problem
        except Unreachable as problem:
            held.admitted = False
            gate.unreachable(str(problem))
            return self._unreachable(held, str(problem))
        return self._judged(held, found)

    async def _lost(self, held: Held, problem: ConnectionLost) -> Input:
        """A call lost its connection. The watcher of the function's process may know the reason."""
        why_lost = self._gate.why_lost
        latency = time.monotonic() - held.called_at  # of the call, without the time that the question takes
        reason = await why_lost(held.called_at) if why_lost is not None else ""
        held.admitted = False
        self._gate.answered(latency, self._policy.timeout_seconds, ok=False)
        self.counters.attempt(latency)
        held.tries += 1
        return self._failed(held, None, reason or str(problem), latency, "retry")

    async def _answer_alone(self, held: Held) -> Input:
        """The same for a suspect event: a mark stands while it is called, and only then."""
        position = held.delivery.position
        assert position is not None
        if await self._suspects.is_proven(position):
            self._abandon(held)
            message = f"handed out {held.delivery.handed_out} times; the process ended while it called this event alone"
            return self._part_with(held, "CrashLoop", message)
        try:
            return await self._answer_of(held, fresh=True, before_sent=partial(self._suspects.mark, position))
        finally:
            await self._suspects.unmark(position)

    def _judged(self, held: Held, found: Answer | NoAnswer) -> Input:
        """Counts a call that reached the function, and decides what follows from its answer."""
        latency = time.monotonic() - held.called_at
        answer = found if isinstance(found, Answer) else None
        verdict = verdict_on(answer.status) if answer is not None else "retry"
        held.admitted = False
        self._gate.answered(latency, self._policy.timeout_seconds, verdict == "delivered")
        self.counters.attempt(latency)
        held.tries += 1
        if answer is None:
            return self._failed(held, None, str(found) or "no answer", latency, verdict)
        self.last_answer = (answer.status, time.time(), latency)
        if verdict != "delivered":
            return self._failed(held, answer, reason_of(answer), latency, verdict)
        if self.hold.run.count and self.hold.succeeded():
            self._tell_of_room()
        held.outcome = Outcome("delivered", "", answer)
        if self.replies is not None:
            held.latency_seconds = latency
            return Input.ANSWERED
        if self._delivered is not None:
            self._delivered.tell(held, "delivered", answer.status, latency)
        return _DECIDED

    def _cannot_be_called(self, held: Held, problem: ValueError) -> Input:
        self._abandon(held)
        return self._part_with(held, "InvalidEvent", str(problem))

    def _abandon(self, held: Held) -> None:
        """Tells the gate that the call is given up from this side, unless it knows how the call ended."""
        if held.admitted:
            held.admitted = False
            self._gate.abandoned()

    def _unreachable(self, held: Held, message: str) -> Input:
        """The function is down. No attempt is spent; the event waits in front, unless a caller waits for its answer."""
        self.last_error = message
        if held.delivery.caller_waits:
            return self._end(held, "dropped", "FunctionDown", message)
        if self._observer is not None:
            self._observer.tell(held, "held", None, None, message)
        return Input.UNREACHABLE

    def _failed(self, held: Held, answer: Answer | None, reason: str, latency: float, verdict: Verdict) -> Input:
        """An attempt did not deliver the event: another one follows, or the event's end."""
        now = time.time()
        if not held.first_at:
            held.first_at = held.called_at
        if self._delivered_before != self.counters.delivered:
            self._delivered_before, self._fails_since = self.counters.delivered, now
        status, head = (None, b"") if answer is None else (answer.status, answer.body[:ANSWER_HEAD_BYTES])
        self.last_error = message = failure_text(status, reason)
        held.attempted(Attempt(now - latency, latency, status, reason, head))
        retry_after = retry_after_of(answer, now)
        # The wall clock may be set in between: it makes no event too old, and keeps none for longer
        age_at, jitter = time.monotonic(), self._jitter()
        following = after_failure(self._policy, verdict, held.tries, held.first_at, age_at, jitter, retry_after)
        if isinstance(following, float):
            self.counters.retried += 1
            if self._observer is not None:
                self._observer.tell(held, "retry", status, latency, message, following)
            self.hold.attempt_failed()
            held.delay_seconds = following
            return Input.FAILED
        if held.delivery.caller_waits:
            end = following if answer is not None else "Timeout" if "time" in message else "NoAnswer"
            return self._end(held, "dropped", end, message, answer)
        return self._give_up(held, following, message, answer)

    def _give_up(self, held: Held, reason: str, message: str, answer: Answer | None) -> Input:
        """No attempt is left. While everything fails that is the function's fault, and the event stays."""
        lane, counts = held.lane_or_itself, held.redriven == 0
        if self.hold.failed_finally(lane, self.last_error, self._others_are_held, counts=counts):
            return Input.HELD_BACK
        if held.redriven:
            return self._condemn(held, reason, message, answer)  # it stays the dead letter that it is
        if self._policy.on_failure == "drop":
            return self._end(held, "dropped", reason, message, answer)
        if self._policy.on_failure == "park":
            if self._observer is not None:
                self._observer.tell(held, "parked", answer.status if answer else None, None, message)
            log.warning("lane parked", extra={**self._where, "event": held.delivery.event.id, "reason": reason})
            return Input.EXHAUSTED
        return self._condemn(held, reason, message, answer)

    def _part_with(self, held: Held, reason: str, message: str) -> Input:
        """No attempt can deliver the event: a dead letter, unless nobody wants one."""
        if held.delivery.caller_waits or (self._policy.on_failure == "drop" and not held.redriven):
            return self._end(held, "dropped", reason, message)
        return self._condemn(held, reason, message, None)

    def _condemn(self, held: Held, reason: str, message: str, answer: Answer | None) -> Input:
        held.outcome = Outcome("deadLettered", reason, answer)
        held.message = message
        return Input.CONDEMNED

    def _end(self, held: Held, kind: OutcomeKind, reason: str, message: str, answer: Answer | None = None) -> Input:
        held.outcome = Outcome(kind, reason, answer, message=message)
        held.message = message
        if self._observer is not None:
            self._observer.tell_outcome(held)
        return _DECIDED

    def _faulted(self, held: Held) -> None:
        """Our own code raised: the event is not to blame, and is tried again."""
        log.exception("dispatch failed", extra={**self._where, "event": held.delivery.event.id})
        if (error := sys.exception()) is not None:
            self.last_error = f"a fault of kubeirq or of the source: {type(error).__name__}: {error}"
            held.attempted(Attempt(time.time(), 0.0, None, self.last_error))
        self._abandon(held)
        if Input.FAULTED in LIFE[held.state]:
            held.work = None
            held.delay_seconds = 1.0
            self.hold.attempt_failed()
            self._step(held, Input.FAULTED)

    def _due(self, held: Held) -> None:
        held.timer = None
        self._step(held, Input.DUE)
        self._kick()

    # --- work that is waited for

    def _work(self, held: Held, doing: Callable[..., Awaitable[Input]], *arguments: object) -> None:
        """Does something with the event that takes a while. Its end is an input, unless it is aborted before."""
        held.work = self._spawn(self._until_done(held, doing, arguments))

    async def _until_done(
        self, held: Held, doing: Callable[..., Awaitable[Input]], arguments: tuple[object, ...]
    ) -> None:
        task = held.work
        try:
            given = await doing(held, *arguments)
            if held.work is not task:
                return  # it was aborted, and whatever it waited for swallowed that
            held.work = None
            self._step(held, given)
        except Exception:  # noqa: BLE001  it is logged there
            self._faulted(held)
        self._kick()

    def reply_through(self, publisher: Publisher) -> None:
        """From now on the function's answers are published."""
        self.replies = ReplySender(publisher, self.identity, self._where, self._reply_delay, self._reply_failed)

    def _reply_delay(self, failures: int) -> float:
        return delay_after(failures, self._policy, self._jitter())

    def _reply_failed(self, problem: str) -> None:
        self.counters.reply_failures += 1
        self.last_error = problem

    async def _published(self, held: Held) -> Input:
        """Publishes the function's answer. The function is not called again, however often that takes."""
        assert self.replies is not None
        assert held.outcome is not None
        answer = held.outcome.answer
        assert answer is not None
        try:
            await self.replies.answer(held.delivery, answer)
        except ReplyFailed as problem:
            return self._end(held, "dropped", "ReplyFailed", str(problem))
        except ReplyRefused as problem:
            self.last_error = str(problem)
            if held.delivery.caller_waits:
                return self._end(held, "dropped", "ReplyFailed", str(problem))
            latency = held.latency_seconds
            held.attempted(
                Attempt(time.time() - latency, latency, answer.status, str(problem), answer.body[:ANSWER_HEAD_BYTES])
            )
            return self._give_up(held, "ReplyRefused", str(problem), answer)
        if self._delivered is not None:
            self._delivered.tell(held, "delivered", answer.status, held.latency_seconds)
        return _DECIDED

    async def _written(self, held: Held) -> Input:
        await self.letters.write(lambda: held.dead_letter(self.identity, time.time()))
        if self._observer is not None:
            self._observer.tell_outcome(held)
        return Input.WRITTEN

    async def _told(self, held: Held, outcome: Outcome) -> Input:
        try:
            await held.delivery.settle(outcome)
        except AnswerRefused as problem:
            self.last_error = f"{problem.reason}: {problem}"
            log.warning("answer not given", extra={**self._where, "error": self.last_error})
            self._end(held, "dropped", problem.reason, str(problem))
            return _SETTLED
        except Exception as error:  # noqa: BLE001  a source that lost its connection will hand the position out again
            self._log_unsettled(held.delivery, error)
            return Input.SETTLE_FAILED
        return _SETTLED

    def _log_unsettled(self, delivery: Delivery, error: Exception) -> None:
        log.info("settle failed", extra={**self._where, "event": delivery.event.id, "error": repr(error)})

    def _spawn(self, work: Awaitable[None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("dispatch failed", exc_info=error, extra=self._where)

    async def aclose(self) -> None:
        """Ends every task. The events that are still held are the source's again."""
        self.start_no_more()
        self._gate.leave(self._wake)
        self._loop_time.leave(self._wake)
        self.hold.close()
        for held in self._held.values():
            self._unwait(held)
            if held.state is State.CALLING:
                self._hang_up(held)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- while events are held

    async def extend(self) -> None:
        """Keeps the broker's deadline from passing for everything that is held."""
        for held in self.events():
            extend = held.delivery.extend
            if extend is None:
                continue
            try:
                await extend()
            except Exception as error:  # noqa: BLE001  it is handed out again then, and replaces this one
                log.debug("extend failed", extra={**self._where, "error": repr(error)})
                return

    def resume(self) -> None:
        """A person ends the hold that began when everything failed, or the filter on every event."""
        self.hold.end()
        self._tell_of_room()
        self._kick()

    def release(self, lane: str | None) -> int:
        """Lets the parked or retrying lane of that name (None: all) try again now, with fresh attempts; how many."""
        found = self._stuck(lane)
        for held in found:
            self._step(held, Input.RELEASED)
        self._kick()
        return len(found)

    def skip(self, lane: str | None) -> int:
        """Ends the first event of the parked or retrying lane of that name (None: all): dead-lettered, or dropped."""
        found = self._stuck(lane)
        for held in found:
            message = f"skipped by hand; last: {held.last_message}"
            self._step(held, self._part_with(held, "Skipped", message))
        self._kick()
        return len(found)

    def _stuck(self, lane: str | None) -> list[Held]:
        return [held for held in self.events() if held.is_stuck and (lane is None or held.lane_name == lane)]


def _label(state: State) -> Label:
    assert state.label
    return state.label


Act = Callable[[Dispatcher, Held], None]


def _method_of(action: Action) -> Act:
    method: Act = getattr(Dispatcher, f"_{action.name.lower()}")
    return method


# The table with the dispatcher's methods in the place of its actions
_ROWS: dict[State, dict[Input, tuple[State, tuple[Act, ...]]]] = {
    state: {given: (following, tuple(map(_method_of, actions))) for given, (following, actions) in inputs.items()}
    for state, inputs in LIFE.items()
}
