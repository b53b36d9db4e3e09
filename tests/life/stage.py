"""The real dispatcher on a stage: the script is a path through a world, and the outside is scripted.

The dispatcher, its lanes, its policies and the gate are the real ones. The stage stands for the far side: the answers
of the function, the source, the store of dead letters, and the target of replies. The script fires each timer.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from life.world import Move, Rules, Run, World

from trigger_sources.dead_letters import DeadLetter
from trigger_sources.delivery import SETTLED, Answer, Delivery, Outcome
from trigger_sources.dispatch.dispatcher import Dispatcher
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.handover import drain, withdraw
from trigger_sources.dispatch.held import Identity
from trigger_sources.dispatch.life import Resource
from trigger_sources.events import Event
from trigger_sources.publisher import ReplyRefused
from trigger_sources.source import TriggerSource
from trigger_sources.transport.client import NoAnswer, Stale, Unreachable

IDENTITY = Identity("LineTrigger", "default", "line", "uid", "f")
Answered = Callable[[Answer | NoAnswer | Stale], None]


class LineTrigger(TriggerSource):
    """A trigger whose deliveries a script hands over."""


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still, and whose timers fire when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return 1000.0

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.timers.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.timers = [timer for timer in self.timers if timer is not handle]

    def fire(self, chosen: Callable[[asyncio.TimerHandle], bool]) -> int:
        found = [timer for timer in self.timers if not timer.cancelled() and chosen(timer)]
        for timer in found:
            self.timers.remove(timer)
            timer._run()  # type: ignore[attr-defined]
        return len(found)

    async def calm(self) -> None:
        """Returns when nothing is left to do before the next move."""
        while True:
            await asyncio.sleep(0)
            if not self._ready:  # type: ignore[attr-defined]
                return


class Call:
    """A call under way, as the dispatcher has it of its client."""

    def __init__(self, function: "ScriptedFunction", event: int, answered: Answered) -> None:
        self.function, self.event, self.answered = function, event, answered

    def abort(self) -> None:
        self.function.calls.pop(self.event, None)
        self.function.say("abort", self.event)


class ScriptedFunction:
    """The far side of the dispatcher's HTTP client: it answers when the script says so."""

    path = b"/"

    def __init__(self, say: Callable[..., None], *, kept: bool) -> None:
        self.say = say
        self.kept = kept  # whether there is a kept connection: the dispatcher needs no task then
        self.calls: dict[int, Call | asyncio.Future[Answer]] = {}

    def start(
        self, method: bytes, target: bytes, headers: bytes, body: bytes, answered: Answered, *, timeout_seconds: float
    ) -> Call | None:
        if not self.kept:
            return None
        event = self._called(headers, body)
        call = Call(self, event, answered)
        self.calls[event] = call
        return call

    async def send(
        self, method: bytes, target: bytes, headers: bytes, body: bytes, *, timeout_seconds: float, fresh: bool = False,
        before_sent: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:  # fmt: skip
        if before_sent is not None:
            await before_sent()
        event = self._called(headers, body)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.calls[event] = future
        try:
            return await future
        except asyncio.CancelledError:
            self.say("abort", event)
            raise

    def _called(self, headers: bytes, body: bytes) -> int:
        attempt = int(headers.split(b"kubeirq-attempt: ")[1].split(b"\r\n")[0])
        self.say("call", int(body), attempt)
        return int(body)

    def answer(self, event: int, found: Answer | Exception) -> None:
        call = self.calls.pop(event)
        if isinstance(call, Call):
            assert not isinstance(found, Unreachable)
            call.answered(found)  # type: ignore[arg-type]
        elif isinstance(found, Exception):
            call.set_exception(found)
        else:
            call.set_result(found)

    async def close(self) -> None: ...


class Scripted:
    """Something that is awaited, and ends when the script says so."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[None]] = {}

    async def until_told(self, event: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting[event] = future
        try:
            await future
        finally:
            if self.waiting.get(event) is future:
                del self.waiting[event]

    def tell(self, event: int, problem: Exception | None = None) -> None:
        future = self.waiting[event]
        if problem is None:
            future.set_result(None)
        else:
            future.set_exception(problem)


class ScriptedLetters(Scripted):
    def __init__(self, say: Callable[..., None]) -> None:
        super().__init__()
        self.say = say

    async def write(self, letter: DeadLetter) -> None:
        event = int(letter.event.id)
        self.say("write", event)
        await self.until_told(event)

    async def remove(self, letter: DeadLetter) -> None: ...

    async def prepare(self) -> None: ...

    async def count(self) -> int:
        return 0

    async def letters(self) -> AsyncIterator[DeadLetter]:
        return
        yield

    async def close(self) -> None: ...


class ScriptedPublisher(Scripted):
    def __init__(self, say: Callable[..., None]) -> None:
        super().__init__()
        self.say = say

    async def publish(self, event: Event, key: bytes | None) -> None:
        number = int(event.id.split("/")[0])
        self.say("publish", number)
        await self.until_told(number)

    async def close(self) -> None: ...


class Marks(Scripted):
    """The durable state of the trigger. A mark that an earlier process left is found when the script says so."""

    def __init__(self, left: set[int]) -> None:
        super().__init__()
        self.left = left
        self.values: dict[str, bytes] = {f"crash/{event}": b"earlier" for event in left}

    async def get(self, key: str) -> bytes | None:
        event = int(key.removeprefix("crash/"))
        if event in self.left and key in self.values:
            await self.until_told(event)
        return self.values.get(key)

    async def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)


class Stage:
    """One process: `play` makes a move happen to it."""

    def __init__(
        self, loop: ManualLoop, rules: Rules, *, kept: bool, marked: set[int] | None = None, limit: int = 100
    ) -> None:
        self.loop, self.rules = loop, rules
        self.log: list[tuple[object, ...]] = []
        self.cut = False
        self.settling = Scripted()
        self.marks = Marks(marked or set())
        self.function = ScriptedFunction(self.say, kept=kept)
        self.letters = ScriptedLetters(self.say)
        self.publisher = ScriptedPublisher(self.say)
        self.gate = Gate("f", "http://127.0.0.1:9/")
        self.gate.endpoint = self.function  # type: ignore[assignment]
        ids = ", ".join(f'"{event}"' for event in sorted(rules.filtered))
        trigger = LineTrigger.model_validate({
            "function": "f", "ordering": "key", "concurrency": rules.places,
            "filter": f"!(event.id in [{ids}])" if rules.filtered else None,
            "delivery": {"attempts": rules.attempts, "onFailure": rules.on_failure, "holdAfter": None},
        })  # fmt: skip
        self.dispatcher = Dispatcher(
            trigger, IDENTITY, self.gate, state=self.marks, limit=limit, jitter=lambda: 0.5
        )  # fmt: skip
        self.dispatcher.letters.store = self.letters
        if rules.reply:
            self.dispatcher.reply_through(self.publisher)
        self.draining: asyncio.Task[None] | None = None

    def say(self, *words: object) -> None:
        self.log.append(words)

    def delivery(self, event: int) -> Delivery:
        def settle(outcome: Outcome) -> Awaitable[None]:
            kind = "dropped" if outcome.kind == "filtered" else outcome.kind
            self.say("settle", event, kind)
            if self.rules.at_once and kind != "returned":
                if self.cut:
                    raise ConnectionError("the source's connection is gone")
                return SETTLED
            return self.settling.until_told(event)

        key = self.rules.keys[event]
        return Delivery(
            Event(id=str(event), source="/line", type="t", data=str(event).encode()),
            settle,
            position=str(event),
            key=None if key < 0 else str(key).encode(),
            handed_out=9 if event in self.rules.suspects else 1,
            settles_at_once=self.rules.at_once,
            unreadable="no event" if event in self.rules.unreadable else "",
        )

    async def play(self, move: Move) -> None:
        self.log.clear()
        name, at = move
        await getattr(self, f"on_{name}")(at)
        await self.loop.calm()

    async def on_take(self, event: int) -> None:
        self.dispatcher.take([self.delivery(event)])

    on_again = on_retell = on_take

    async def on_deliver(self, event: int) -> None:
        self.function.answer(event, Answer(200, (), b"{}"))

    async def on_fail(self, event: int) -> None:
        self.function.answer(event, Answer(500))

    async def on_unreachable(self, event: int) -> None:
        self.function.answer(event, Unreachable("connection refused"))

    async def on_fault(self, event: int) -> None:
        if event in self.publisher.waiting:
            raise AssertionError("a publisher's exception is no fault of ours")
        self.function.answer(event, RuntimeError("a fault of ours"))

    async def on_probe(self, _: int) -> None:
        assert self.loop.fire(lambda timer: "_probe_due" in repr(timer)) == 1

    async def on_loop(self, event: int) -> None:
        self.marks.tell(event)

    async def on_publish(self, event: int) -> None:
        self.publisher.tell(event)

    async def on_refuse(self, event: int) -> None:
        self.publisher.tell(event, ReplyRefused("too large"))

    async def on_due(self, event: int) -> None:
        def of_event(timer: asyncio.TimerHandle) -> bool:
            held = timer._args[0] if timer._args else None  # type: ignore[attr-defined]
            return getattr(getattr(held, "delivery", None), "position", None) == str(event)

        assert self.loop.fire(of_event) == 1

    async def on_write(self, event: int) -> None:
        self.letters.tell(event)

    async def on_settle(self, event: int) -> None:
        self.settling.tell(event)

    async def on_unsettle(self, event: int) -> None:
        self.settling.tell(event, ConnectionError("the source's connection is gone"))

    async def on_person(self, event: int) -> None:
        assert self.dispatcher.release(self.lane_name(event)) == 1

    def lane_name(self, event: int) -> str:
        return next(held.lane_name for held in self.dispatcher.events() if held.delivery.position == str(event))

    async def on_skip(self, event: int) -> None:
        assert self.dispatcher.skip(self.lane_name(event)) == 1

    async def on_revoke(self, key: int) -> None:
        await withdraw(self.dispatcher, lambda delivery: delivery.key == str(key).encode(), 0)

    async def on_cut(self, _: int) -> None:
        self.cut = True

    async def on_mend(self, _: int) -> None:
        self.cut = False

    async def on_stop(self, _: int) -> None:
        self.draining = asyncio.ensure_future(drain(self.dispatcher, 0))

    async def on_abandon(self, _: int) -> None:
        self.loop.fire(lambda timer: timer.when() == self.loop.time() + 5)

    async def end(self) -> None:
        """The process is gone: its tasks end, and the outside hears no more of it."""
        self.say = lambda *words: None  # type: ignore[method-assign]
        self.function.say = self.letters.say = self.publisher.say = self.say
        if self.draining is not None:
            self.draining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.draining
        await self.dispatcher.aclose()
        self.loop.timers.clear()


def expected(rules: Rules, world: World, move: Move) -> tuple[World, Counter[tuple[object, ...]]]:
    """The world after the move, and what the outside sees of it."""
    log: list[tuple[object, ...]] = []
    run = Run(rules, world, log)
    run.move(*move)
    return run.world(), Counter(log)


def labels(world: World) -> Counter[str]:
    return Counter(held.state.label for held in world.events if Resource.ROOM in held.state.holds)


async def perform(loop: ManualLoop, rules: Rules, path: Sequence[Move], *, kept: bool) -> None:
    """Plays the path on the real dispatcher. Raises AssertionError where it does anything but what the table says."""
    world = rules.start()
    stage = Stage(loop, rules, kept=kept)
    try:
        for index, move in enumerate(path):
            world, seen = expected(rules, world, move)
            if move[0] == "crash":
                await stage.end()
                stage = Stage(
                    loop, rules, kept=kept, marked={event for event, held in enumerate(world.events) if held.marked}
                )
                continue
            await stage.play(move)
            told = f"after {path[: index + 1]}"
            assert Counter(stage.log) == seen, f"{told}: {stage.log} in place of {sorted(seen)}"
            assert Counter(stage.dispatcher.states()) == labels(world), told
            assert stage.dispatcher.held == world.balance, told
            counters = stage.dispatcher.counters
            settled = counters.delivered + counters.filtered + counters.deadLettered + counters.dropped
            assert counters.received == settled + counters.returned + counters.withdrawn + stage.dispatcher.held, told
    finally:
        await stage.end()
