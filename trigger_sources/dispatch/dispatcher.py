"""Takes deliveries, posts them to one function, retries, and settles: every event once, none lost."""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Sequence
from functools import partial

from trigger_sources.dead_letters import DeadLetter, DeadLetters
from trigger_sources.delivery import Answer, Attempt, Delivery, Outcome
from trigger_sources.dispatch.call import call_of
from trigger_sources.dispatch.counters import Counters
from trigger_sources.dispatch.filters import FilterError, compile_filter
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.held import ANSWER_HEAD_BYTES, Held, HeldState, Identity, LaneView, Seen
from trigger_sources.dispatch.lanes import Lanes
from trigger_sources.dispatch.replies import Publisher, ReplyRefused, reply_to
from trigger_sources.dispatch.retry import (
    FailureRun,
    Verdict,
    delay_after,
    reason_to_give_up,
    retry_after_of,
    verdict_on,
)
from trigger_sources.events import InvalidEvent
from trigger_sources.source import State, TriggerSource
from trigger_sources.transport.client import NoAnswer, Stale, Unreachable

log = logging.getLogger(__name__)

_HELD_BYTES = 64 * 1024 * 1024
_OUTCOMES_KEPT = 10_000
_EVERYTHING_FAILS_SECONDS = 30.0
_TRIED_WHILE_EVERYTHING_FAILS = 16  # different events, so that one poison event alone cannot keep the trigger held
_SUSPECT_AFTER = 5  # handed out more often than this without an outcome: it may be what kills the process
_CALLER_REPLY_SECONDS = 10.0


class Dispatcher:
    """One trigger's events for one function. Lives in one event loop; nothing here is thread-safe."""

    def __init__(
        self,
        trigger: TriggerSource,
        identity: Identity,
        gate: Gate,
        *,
        state: State,
        limit: int,
        observe: Callable[[Seen], None] | None = None,
        may_start: Callable[[], bool] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.identity = identity
        self.counters = Counters()
        self.limit = limit
        self.dead_letters: DeadLetters | None = None
        self.publisher: Publisher | None = None
        self.room_changed = asyncio.Event()
        self.last_answer: tuple[int, float, float] | None = None  # status, epoch seconds, latency in seconds
        self.last_error = ""
        self.unwritable = ""  # why dead letters cannot be written just now
        self.everything_fails_since: float | None = None
        self.dead_letter_count = 0
        self._trigger = trigger
        self._policy = trigger.delivery
        self._ordering = trigger.lanes
        self._concurrency = trigger.concurrency
        self._gate = gate
        self._state = state
        self._observe = observe
        self._may_start = may_start
        self._jitter = jitter
        self._filter = compile_filter(trigger.filter) if trigger.filter else None
        self._held: dict[Hashable, Held] = {}
        self._lanes: Lanes[Held] = Lanes()
        self._active = 0  # events that take one of the places: started, and not `_over`
        self._starting = False
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._outcomes: OrderedDict[str, Outcome] = OrderedDict()
        self._failures = FailureRun(self._policy.hold_after)
        self._try_again: asyncio.TimerHandle | None = None
        self._trial = False  # while everything fails: one event is being tried
        self._alone = False  # a suspect event runs: nothing else starts
        self._paused = False

    # --- taking

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def room(self) -> int:
        """How many deliveries may be taken now; also 0 while what is held is as large as may be."""
        if self._bytes >= _HELD_BYTES:
            return 0
        return max(0, self.limit - len(self._held))

    @property
    def pulls(self) -> bool:
        """Whether it makes sense to take more: not while the function is down or everything fails."""
        if self.everything_fails_since is not None:
            return len(self._held) < _TRIED_WHILE_EVERYTHING_FAILS
        return not self._gate.is_down

    @property
    def oldest_held_at(self) -> float | None:
        """When the oldest held event was taken, in seconds since the epoch."""
        return min((held.taken_at for held in self._held.values()), default=None)

    def states(self) -> dict[HeldState, int]:
        """How many held events are in each state."""
        found: dict[HeldState, int] = {}
        for held in self._held.values():
            found[held.state] = found.get(held.state, 0) + 1
        return found

    def take(self, deliveries: Iterable[Delivery]) -> None:
        """Takes what a source yielded. A position that is held already is not started again: it is settled anew."""
        now = time.time()
        for delivery in deliveries:
            self._take(delivery, now)
        self._kick()

    def give_back(self, deliveries: Iterable[Delivery]) -> None:
        """What came too late to be taken: settled as returned, at once."""
        for delivery in deliveries:
            self._spawn(self._settle_quietly(delivery, Outcome("returned", "Stopping")))

    def _take(self, delivery: Delivery, now: float) -> Held | None:
        position = delivery.position
        if position is not None:
            known = self._held.get(position)
            if known is not None:
                known.delivery = delivery
                self.counters.redelivered += 1
                return None
            if self._outcomes and position in self._outcomes:
                self.counters.redelivered += 1
                self._spawn(self._settle_quietly(delivery, self._outcomes.pop(position)))
                return None
        held = Held(delivery, self._lane_of(delivery), taken_at=now)
        if delivery.handed_out > _SUSPECT_AFTER:
            held.suspect = True
        self._held[position if position is not None else held] = held
        self._bytes += len(delivery.event.data or b"")
        self.counters.received += 1
        if delivery.caller_waits and self._gate.is_down and not self._gate.may_probe:
            held.state = "settling"
            self._spawn(self._settle(held, Outcome("dropped", "FunctionDown"), in_lane=False))
            return None
        self._lanes.add(held.lane, held)
        return held

    def _lane_of(self, delivery: Delivery) -> Hashable | None:
        if self._ordering == "none":
            return None
        if self._ordering == "partition":
            return delivery.partition
        # Two partitions may hold the same key when a topic was grown: order is per partition, as at the broker
        return None if delivery.key is None else (delivery.partition, delivery.key)

    # --- starting

    def nudge(self) -> None:
        """After `may_start` said no: it may say yes again."""
        self._kick()

    def _kick(self) -> None:
        """Starts as many events as may run."""
        if self._starting:
            return  # whoever does goes on until there are none that may start
        self._starting = True
        try:
            while self._active < self._concurrency and (held := self._next()) is not None:
                self._active += 1
                try:
                    self._start(held)
                except Exception:  # noqa: BLE001  it is logged there
                    self._our_fault(held)
                    self._over(held)
        finally:
            self._starting = False

    def _next(self) -> Held | None:
        ready = self._lanes.ready
        if not ready or self._paused or self._alone:
            return None
        if self.everything_fails_since is not None and (self._trial or self._try_again is not None):
            return None
        held = ready[0]
        if held.suspect and self._active > 0:
            return None  # it runs alone; whoever ends last comes by here again
        if self._may_start is not None and not self._may_start():
            return None  # another replica may have taken over: what is held here is about to be withdrawn
        if not self._gate.admits(self._kick):
            if self._gate.is_down:
                self._refuse_callers()
            return None
        if self.everything_fails_since is not None:
            self._trial = True
        self._alone = held.suspect
        held.admitted = True
        held.state = "running"
        return ready.popleft()

    def _refuse_callers(self) -> None:
        """The function is down: whoever waits for an answer gets that one, at once."""
        waiting = [held for held in self._lanes.ready if held.delivery.caller_waits]
        for held in waiting:
            self._lanes.ready.remove(held)
            held.state = "settling"
            self._spawn(self._settle(held, Outcome("dropped", "FunctionDown")))

    # --- one attempt and what follows

    def _start(self, held: Held) -> None:
        """Calls the function once, or settles what the filter does not let through. `_over` follows.

        From here to settled there is no task, where nothing has to be waited for but the answer. That is how most
        events go, and a task and its wake-ups would cost as much as sending the request.
        """
        if held.delivery.unreadable:
            self._part_with(held, "Unreadable", held.delivery.unreadable)
            self._over(held)
            return
        if not held.checked and not self._passes(held):
            return
        if not held.suspect:
            delivery, endpoint = held.delivery, self._gate.endpoint
            try:
                method, target, headers = call_of(delivery, held.tries + 1, endpoint.path)
                held.called_at = time.monotonic()
                held.call = endpoint.start(
                    method, target, headers, delivery.event.data or b"", partial(self._came, held),
                    timeout_seconds=self._policy.timeout_seconds,
                )  # fmt: skip
            except ValueError as problem:
                self._part_with(held, "InvalidEvent", str(problem))
                self._over(held)
                return
            if held.call is not None:
                return
        self._go_on(held, self._call)

    def _came(self, held: Held, found: Answer | NoAnswer | Stale) -> None:
        """What came of a call that no task waits for."""
        held.call = None
        try:
            if isinstance(found, Stale):
                self._go_on(held, self._call, True)
                return
            verdict, latency = self._attempted(held, found)
            if verdict == "delivered" and self.publisher is None:
                assert isinstance(found, Answer)
                self._succeeded(found.status, latency)
                if self._observe is not None:
                    self._tell(held, "delivered", found.status, latency)
                self._settle_and_go(held, Outcome("delivered", "", found))
            else:
                self._go_on(held, self._judge, found, verdict, latency)
        except Exception:  # noqa: BLE001  it is logged there
            self._our_fault(held)
            self._over(held)

    def _settle_and_go(self, held: Held, outcome: Outcome) -> None:
        if self._settle_at_once(held, outcome):
            self._over(held)
        else:
            self._go_on(held, self._settle, outcome)

    def _go_on(self, held: Held, step: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """What has to be waited for is a task; `_over` at its end."""
        held.task = self._spawn(self._work(held, step, *arguments))
        held.task.add_done_callback(partial(self._cancelled_unbegun, held))

    async def _work(self, held: Held, step: Callable[..., Awaitable[None]], *arguments: object) -> None:
        task = held.task
        try:
            await step(held, *arguments)
        except Exception:  # noqa: BLE001  it is logged there
            self._our_fault(held)
        finally:
            if held.task is task:
                held.task = None
            self._over(held)

    def _cancelled_unbegun(self, held: Held, task: "asyncio.Task[None]") -> None:
        """Of a task that is cancelled before its first step nothing runs, its `finally` neither."""
        if held.task is task:
            held.task = None
            self._over(held)

    def _our_fault(self, held: Held) -> None:
        """Not the event's: it stays held."""
        log.exception("dispatch failed", extra=self._where())
        self._retry_in(held, 1.0)

    def _over(self, held: Held) -> None:
        """Its place is free for another."""
        self._active -= 1
        if held.admitted:
            held.admitted = False
            self._gate.abandoned()
        if held.suspect and self._alone:
            self._alone = False
        self._kick()

    async def _call(self, held: Held, fresh: bool = False) -> None:
        """Calls the function once, on a new connection if need be. The gate has admitted the call."""
        if held.suspect and not await self._may_run_alone(held):
            return
        gate, delivery = self._gate, held.delivery
        try:
            method, target, headers = call_of(delivery, held.tries + 1, gate.endpoint.path)
            held.called_at = time.monotonic()
            found: Answer | NoAnswer = await gate.endpoint.send(
                method, target, headers, delivery.event.data or b"",
                timeout_seconds=self._policy.timeout_seconds, fresh=fresh,
            )  # fmt: skip
        except ValueError as problem:
            self._part_with(held, "InvalidEvent", str(problem))
            return
        except NoAnswer as problem:
            found = problem
        except Unreachable as problem:
            held.admitted = False
            gate.unreachable(str(problem))
            await self._function_is_down(held, str(problem))
            return
        await self._judge(held, found, *self._attempted(held, found))

    def _attempted(self, held: Held, found: Answer | NoAnswer) -> tuple[Verdict, float]:
        """Counts a call that reached the function; what it means and how long it took."""
        latency = time.monotonic() - held.called_at
        verdict = verdict_on(found.status) if isinstance(found, Answer) else "retry"
        held.admitted = False
        self._gate.answered(latency, self._policy.timeout_seconds, verdict == "delivered")
        self.counters.attempt(latency)
        held.tries += 1
        return verdict, latency

    async def _judge(self, held: Held, found: Answer | NoAnswer, verdict: Verdict, latency: float) -> None:
        """Settles the event, or decides on another attempt."""
        if not isinstance(found, Answer):
            await self._failed(held, None, str(found) or "no answer", latency, False)
        elif verdict != "delivered":
            await self._failed(held, found, "", latency, verdict == "permanent")
        else:
            self._succeeded(found.status, latency)
            if self.publisher is not None and not await self._reply(held, found):
                return
            if self._observe is not None:
                self._tell(held, "delivered", found.status, latency)
            await self._settle(held, Outcome("delivered", "", found))

    def _passes(self, held: Held) -> bool:
        """Whether the filter lets it through; if not, it is settled from here."""
        if self._filter is None:
            held.checked = True
            return True
        try:
            passes = self._filter(held.delivery)
        except FilterError as error:
            self.counters.filter_errors += 1
            if self._trigger.filter_error == "deliver":
                passes = True
            elif self._trigger.filter_error == "drop" or held.delivery.caller_waits:
                self._tell_outcome(held, Outcome("dropped", "FilterError"), str(error))
                self._settle_and_go(held, Outcome("dropped", "FilterError"))
                return False
            else:
                self._bury(held, "FilterError", f"spec.filter: {error}", None)
                self._over(held)
                return False
        if passes:
            held.checked = True
            return True
        self._tell_outcome(held, Outcome("filtered", "Filtered"), "")
        self._settle_and_go(held, Outcome("filtered", "Filtered"))
        return False

    async def _may_run_alone(self, held: Held) -> bool:
        """A suspect leaves a mark before it runs. One that comes back with its mark ended the process while alone."""
        position = held.delivery.position
        if position is None:
            return True
        mark = f"crash/{position}"
        if await self._state.get(mark) is not None:
            await self._state.delete(mark)
            self._part_with(held, "CrashLoop", f"handed out {held.delivery.handed_out} times, and never settled")
            return False
        await self._state.put(mark, b"1")
        return True

    async def _function_is_down(self, held: Held, message: str) -> None:
        """No attempt is spent. The event waits at the head of its lane, unless someone waits for its answer."""
        self.last_error = message
        self._trial = False
        if held.delivery.caller_waits:
            await self._end(held, Outcome("dropped", "FunctionDown"), message)
            return
        if held.withdrawn:
            return
        if self._observe is not None:
            self._tell(held, "held", None, None, message)
        held.state = "queued"
        self._lanes.ready.appendleft(held)

    def _succeeded(self, status: int, latency: float) -> None:
        self.last_answer = (status, time.time(), latency)
        self._failures.succeeded()
        if self.everything_fails_since is not None:
            self.resume()

    async def _failed(self, held: Held, answer: Answer | None, error: str, latency: float, permanent: bool) -> None:
        now = time.time()
        if not held.first_at:
            held.first_at = now - latency
        status = answer.status if answer is not None else None
        message = f"status {status}" if status is not None else error
        self.last_error = message
        if status is not None:
            self.last_answer = (status, now, latency)
        held.attempted(
            Attempt(now - latency, latency, status, error, answer.body[:ANSWER_HEAD_BYTES] if answer else b"")
        )
        policy = self._policy
        delay = delay_after(held.tries, policy, self._jitter(), retry_after_of(answer, now))
        reason = "PermanentAnswer" if permanent else reason_to_give_up(policy, held.tries, held.first_at, now + delay)
        if reason is None:
            self.counters.retried += 1
            if self._observe is not None:
                self._tell(held, "retry", status, latency, f"{message}; again in {delay:.1f} s")
            self._retry_in(held, delay)
            return
        if held.delivery.caller_waits:
            if answer is None and reason != "PermanentAnswer":
                reason = "Timeout" if "time" in error else "NoAnswer"
            await self._end(held, Outcome("dropped", reason, answer), message)
            return
        await self._give_up(held, reason, message, answer)

    async def _give_up(self, held: Held, reason: str, message: str, answer: Answer | None) -> None:
        """Every try was spent. While everything fails, that is the function's fault and the event stays."""
        if held.redriven == 0:
            self._failures.failed(held.lane if held.lane is not None else held)
        if self.everything_fails_since is not None or self._failures.everything_fails:
            self._everything_fails()
            held.tries = 0
            held.first_at = 0.0
            held.state = "queued"
            if not held.withdrawn:
                self._lanes.ready.append(held)
            return
        if self._policy.on_failure == "drop":
            await self._end(held, Outcome("dropped", reason, answer), message)
        elif self._policy.on_failure == "park":
            held.state = "parked"
            if self._observe is not None:
                self._tell(held, "parked", answer.status if answer else None, None, message)
            log.warning("lane parked", extra={**self._where(), "event": held.delivery.event.id, "reason": reason})
        else:
            self._bury(held, reason, message, answer)

    def _retry_in(self, held: Held, delay: float) -> None:
        if held.withdrawn or not self._is_held(held):
            return
        if self.everything_fails_since is not None:
            self._everything_fails()  # the one that was tried failed: the next is tried later
        held.state = "retrying"
        held.timer = asyncio.get_running_loop().call_later(delay, self._retry, held)

    def _retry(self, held: Held) -> None:
        held.timer = None
        held.state = "queued"
        self._lanes.ready.append(held)
        self._kick()

    # --- replies

    async def _reply(self, held: Held, answer: Answer) -> bool:
        """Publishes what the function returned, as often as it takes; the function is not called again."""
        assert self.publisher is not None
        delivery = held.delivery
        try:
            event = reply_to(delivery.event, answer, self.identity.namespace, self.identity.function)
        except (InvalidEvent, ReplyRefused) as error:
            await self._reply_refused(held, str(error), answer)
            return False
        if event is None:
            return True
        key = delivery.key
        partition_key = event.extensions.get("partitionkey")
        if partition_key is not None:
            key = partition_key.encode()
        failures = 0
        deadline = time.monotonic() + _CALLER_REPLY_SECONDS
        while True:
            try:
                if delivery.caller_waits:
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                        await self.publisher.publish(event, key)
                else:
                    await self.publisher.publish(event, key)
            except ReplyRefused as error:
                await self._reply_refused(held, str(error), answer)
                return False
            except Exception as error:  # noqa: BLE001  whatever a broker's client raises, the event waits for its reply
                failures += 1
                self.counters.reply_failures += 1
                message = f"reply not published: {error}" if str(error) else "reply not published in time"
                self.last_error = message
                if delivery.caller_waits and time.monotonic() >= deadline:
                    await self._end(held, Outcome("dropped", "ReplyFailed", None), message)
                    return False
                if failures == 1:
                    log.warning("reply not published", extra={**self._where(), "error": message})
                await asyncio.sleep(delay_after(failures, self._policy, self._jitter()))
            else:
                return True

    async def _reply_refused(self, held: Held, message: str, answer: Answer) -> None:
        if held.delivery.caller_waits:
            await self._end(held, Outcome("dropped", "ReplyFailed", None), message)
        else:
            await self._give_up(held, "ReplyRefused", message, answer)

    # --- settling

    def _part_with(self, held: Held, reason: str, message: str) -> None:
        """No further attempt can deliver it: a dead letter, unless nobody wants one."""
        if held.delivery.caller_waits or self._policy.on_failure == "drop":
            held.state = "settling"
            held.task = self._spawn(self._end(held, Outcome("dropped", reason), message))
        else:
            self._bury(held, reason, message, None)

    def _bury(self, held: Held, reason: str, message: str, answer: Answer | None) -> None:
        """Hands the event to the undertaker: the lane holds until the dead letter is durable, the worker goes on."""
        held.state = "settling"
        held.task = self._spawn(self._write_dead_letter(held, reason, message, answer))

    async def _write_dead_letter(self, held: Held, reason: str, message: str, answer: Answer | None) -> None:
        assert self.dead_letters is not None
        letter = held.dead_letter(self.identity, reason, message, time.time())
        failures = 0
        while True:
            try:
                await self.dead_letters.write(letter)
                break
            except Exception as error:  # noqa: BLE001  while it cannot be written, whatever the reason, the lane holds
                failures += 1
                self.unwritable = f"dead letter not written: {error}"
                if failures == 1:
                    log.warning("dead letter not written", extra={**self._where(), "error": str(error)})
                await asyncio.sleep(min(30.0, 0.25 * 2**failures))
        self.unwritable = ""
        if held.redriven == 0:
            self.dead_letter_count += 1
        await self._end(held, Outcome("deadLettered", reason, answer), message)
        self._kick()

    async def _end(self, held: Held, outcome: Outcome, message: str) -> None:
        self._tell_outcome(held, outcome, message)
        await self._settle(held, outcome)

    def _tell_outcome(self, held: Held, outcome: Outcome, message: str) -> None:
        if self._observe is None:
            return
        last = held.attempts[-1] if held.attempts else None
        status, latency = (last.status, last.latency_seconds) if last else (None, None)
        self._tell(
            held, outcome.kind, status, latency,
            f"{outcome.reason}: {message}" if message else outcome.reason,
        )  # fmt: skip

    def _settle_at_once(self, held: Held, outcome: Outcome) -> bool:
        """Tells the source, where that and all else can be done without waiting; whether it could."""
        delivery = held.delivery
        if not delivery.settles_at_once or held.suspect or held.withdrawn:
            return False
        self._trial = False
        try:
            delivery.settle(outcome)
        except Exception as error:  # noqa: BLE001  a source that lost its connection will hand the position out again
            self._not_settled(delivery, outcome, error)
        self.counters.settled(outcome.kind)
        self._forget(held)
        return True

    async def _settle(self, held: Held, outcome: Outcome, *, in_lane: bool = True) -> None:
        """Tells the source. If it cannot be told, the outcome is kept for when the position is handed out again."""
        self._trial = False
        if held.withdrawn:
            return
        held.state = "settling"
        delivery = held.delivery
        if held.suspect and delivery.position is not None:
            await self._state.delete(f"crash/{delivery.position}")
        while True:
            try:
                await delivery.settle(outcome)
            except Exception as error:  # noqa: BLE001  the same
                self._not_settled(delivery, outcome, error)
            if held.delivery is delivery:
                break
            delivery = held.delivery  # handed out again meanwhile: that one is settled the same way
            if delivery.position is not None:
                self._outcomes.pop(delivery.position, None)
        if held.withdrawn:
            return
        self.counters.settled(outcome.kind)
        self._forget(held, in_lane=in_lane)

    async def _settle_quietly(self, delivery: Delivery, outcome: Outcome) -> None:
        try:
            await delivery.settle(outcome)
        except Exception as error:  # noqa: BLE001  the same
            self._not_settled(delivery, outcome, error)

    def _not_settled(self, delivery: Delivery, outcome: Outcome, error: Exception) -> None:
        """The position will be handed out again, and is settled then."""
        log.info("settle failed", extra={**self._where(), "event": delivery.event.id, "error": repr(error)})
        if delivery.position is not None and outcome.final:
            self._outcomes[delivery.position] = outcome
            if len(self._outcomes) > _OUTCOMES_KEPT:
                self._outcomes.popitem(last=False)

    def _forget(self, held: Held, *, in_lane: bool = True) -> None:
        """It is held no more: there is room, and its lane goes on."""
        delivery = held.delivery
        del self._held[delivery.position if delivery.position is not None else held]
        self._bytes -= len(delivery.event.data or b"")
        if in_lane and held.lane is not None:
            self._lanes.finish(held.lane)
        if not self.room_changed.is_set():
            self.room_changed.set()

    # --- when everything fails

    def _everything_fails(self) -> None:
        if self.everything_fails_since is None:
            self.everything_fails_since = time.time()
            log.error("everything fails: the trigger holds", extra={**self._where(), "last": self.last_error})
        self._trial = False
        if self._try_again is None:
            self._try_again = asyncio.get_running_loop().call_later(_EVERYTHING_FAILS_SECONDS, self._try_one)

    def _try_one(self) -> None:
        self._try_again = None
        self._kick()

    def resume(self) -> None:
        """Flow again, because an event was delivered or a person said so."""
        self._failures.succeeded()
        self.everything_fails_since = None
        self._trial = False
        if self._try_again is not None:
            self._try_again.cancel()
            self._try_again = None
        self.room_changed.set()
        self._kick()

    # --- giving back

    async def withdraw(self, lost: Callable[[Delivery], bool], grace_seconds: float) -> None:
        """Forgets what is lost: what waits at once, what runs after the grace. Nothing of it is settled afterwards."""
        self._drop_waiting(lambda held: lost(held.delivery))
        running = [held for held in self._held.values() if held.runs and lost(held.delivery)]
        if running and grace_seconds > 0:
            deadline = time.monotonic() + grace_seconds
            while time.monotonic() < deadline and any(self._is_held(held) and held.runs for held in running):
                self.room_changed.clear()
                try:
                    async with asyncio.timeout(min(0.5, max(0.001, deadline - time.monotonic()))):
                        await self.room_changed.wait()
                except TimeoutError:
                    continue
            # What failed in the meantime waits for a retry that it will not have
            self._drop_waiting(lambda held: lost(held.delivery))
        tasks = []
        for held in running:
            if self._is_held(held):
                if held.task is not None:
                    tasks.append(held.task)
                    held.task.cancel()
                self._abort_call(held)
                self._withdraw(held)
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        self._kick()

    def _drop_waiting(self, lost: Callable[[Held], bool]) -> None:
        for held in self._lanes.forget(lost):
            self._withdraw(held, in_lane=False)
        ready = self._lanes.ready
        if any(lost(held) for held in ready):
            gone = [held for held in ready if lost(held)]
            kept = [held for held in ready if not lost(held)]
            ready.clear()
            ready.extend(kept)
            for held in gone:
                self._withdraw(held)
        for held in [held for held in self._held.values() if held.state in ("retrying", "parked") and lost(held)]:
            if held.timer is not None:
                held.timer.cancel()
                held.timer = None
            self._withdraw(held)

    def _withdraw(self, held: Held, *, in_lane: bool = True) -> None:
        held.withdrawn = True
        self.counters.withdrawn += 1
        self._forget(held, in_lane=in_lane)

    def _abort_call(self, held: Held) -> None:
        """What comes of a call that no task waits for is wanted no more."""
        call, held.call = held.call, None
        if call is not None:
            call.abort()
            self._over(held)

    def _is_held(self, held: Held) -> bool:
        position = held.delivery.position
        return self._held.get(position if position is not None else held) is held

    async def drain(self, grace_seconds: float) -> None:
        """Lets what is held settle within the grace; what is not settled then is given back to the source."""
        deadline = time.monotonic() + grace_seconds
        while self._held and (left := deadline - time.monotonic()) > 0:
            if not any(held.state in ("running", "settling", "queued") for held in self._held.values()):
                break  # only retries and parked lanes are left: waiting serves nobody
            if self._gate.is_down and not any(held.runs for held in self._held.values()):
                break
            self.room_changed.clear()
            try:
                async with asyncio.timeout(min(left, 0.5)):
                    await self.room_changed.wait()
            except TimeoutError:
                continue
        self._paused = True
        tasks = []
        for held in list(self._held.values()):
            if held.timer is not None:
                held.timer.cancel()
                held.timer = None
            if held.task is not None and held.state != "settling":
                held.task.cancel()
                tasks.append(held.task)
            elif held.task is not None:
                tasks.append(held.task)  # a dead letter or an acknowledgement under way: let it be written
            self._abort_call(held)
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        returned = Outcome("returned", "Stopping")
        left_over = list(self._held.values())
        await asyncio.gather(*(self._settle_quietly(held.delivery, returned) for held in left_over))
        for held in left_over:
            if self._is_held(held):
                held.withdrawn = True
                self.counters.settled("returned")
                self._held.pop(held.delivery.position if held.delivery.position is not None else held)
        self._bytes = 0

    async def aclose(self) -> None:
        """Ends every task. What is still held is the source's again."""
        self._paused = True
        self._gate.leave(self._kick)
        if self._try_again is not None:
            self._try_again.cancel()
        for held in self._held.values():
            if held.timer is not None:
                held.timer.cancel()
            self._abort_call(held)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- extending

    async def extend(self) -> None:
        """Keeps the broker's deadline from passing for everything that is held."""
        for held in list(self._held.values()):
            extend = held.delivery.extend
            if extend is None:
                continue
            try:
                await extend()
            except Exception as error:  # noqa: BLE001  it is handed out again then, and replaces this one
                log.debug("extend failed", extra={**self._where(), "error": repr(error)})
                return

    # --- what people do to lanes and dead letters

    async def redrive(
        self, letters: Sequence[DeadLetter], rate_per_second: float | None
    ) -> AsyncIterator[tuple[DeadLetter, Outcome]]:
        """Dispatches dead letters with the trigger's own settings; each is removed once it is settled anew.

        Yields each with its outcome as it settles. One that fails again replaces itself, its history grown.
        """
        assert self.dead_letters is not None
        done: asyncio.Queue[tuple[DeadLetter, Outcome]] = asyncio.Queue()
        pending = 0
        spaced = 1 / rate_per_second if rate_per_second else 0.0
        for letter in letters:
            while self.room == 0:
                yield await done.get()
                pending -= 1
            self._redrive(letter, done)
            pending += 1
            while not done.empty():
                yield done.get_nowait()
                pending -= 1
            if spaced:
                await asyncio.sleep(spaced)
        while pending:
            yield await done.get()
            pending -= 1

    def _redrive(self, letter: DeadLetter, done: "asyncio.Queue[tuple[DeadLetter, Outcome]]") -> None:
        if letter.position in self._held:
            done.put_nowait((letter, Outcome("returned", "InFlight")))
            return
        letters = self.dead_letters
        assert letters is not None

        async def settle(outcome: Outcome) -> None:
            if outcome.final and outcome.kind != "deadLettered":
                await letters.remove(letter)
                self.dead_letter_count = max(0, self.dead_letter_count - 1)
            done.put_nowait((letter, outcome))

        delivery = Delivery(
            letter.event, settle, letter.position, letter.key, letter.partition,
            headers=letter.headers, request=letter.request,
        )  # fmt: skip
        held = self._take(delivery, time.time())
        if held is not None:
            held.history = letter.attempts
            held.redriven = letter.redriven + 1
            held.checked = letter.reason != "FilterError"
        self._kick()

    def lanes_view(self) -> list[LaneView]:
        """The lanes that are not simply flowing, and those that queue behind a running event."""
        return [
            LaneView(
                key=held.delivery.key,
                partition=held.delivery.partition,
                events=1 + (self._lanes.queued(held.lane) if held.lane is not None else 0),
                state=held.state,
                since=held.first_at or held.taken_at,
                message=held.last_message,
            )
            for held in self._held.values()
            if held.state in ("running", "retrying", "parked", "settling")
        ]

    def release(self, key: bytes | None) -> int:
        """Parked and retrying lanes of that key (None: all) try again now, with fresh tries; how many."""
        found = self._stuck(key)
        for held in found:
            if held.timer is not None:
                held.timer.cancel()
            held.tries = 0
            held.first_at = 0.0
            self._retry(held)
        return len(found)

    def skip(self, key: bytes | None) -> int:
        """Parked and retrying lanes of that key (None: all) go on; their first event is dead-lettered, or dropped."""
        found = self._stuck(key)
        for held in found:
            if held.timer is not None:
                held.timer.cancel()
                held.timer = None
            self._part_with(held, "Skipped", f"skipped by hand; last: {held.last_message}")
        return len(found)

    def _stuck(self, key: bytes | None) -> list[Held]:
        return [
            held
            for held in self._held.values()
            if held.state in ("parked", "retrying") and (key is None or held.delivery.key == key)
        ]

    # --- helpers

    def _spawn(self, work: "Awaitable[None]") -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("dispatch failed", exc_info=error, extra=self._where())

    def _where(self) -> dict[str, str]:
        return {"trigger": f"{self.identity.namespace}/{self.identity.trigger}", "function": self.identity.function}

    def _tell(self, held: Held, what: str, status: int | None, latency: float | None, message: str = "") -> None:
        assert self._observe is not None
        identity = self.identity
        self._observe(
            Seen(
                time.time(), identity.kind, identity.trigger, identity.function,
                held.delivery.event.id, what, held.tries, status, latency, message,
            )
        )  # fmt: skip
