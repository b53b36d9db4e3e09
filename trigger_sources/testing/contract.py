"""The contract of all sources, as tests. Subclass `SourceContract` and define the origin of the events:

    class TestFolderTrigger(SourceContract):
        @asynccontextmanager
        async def origin(self):
            ...
            yield Origin(trigger, produce)

It runs under pytest with pytest-asyncio in auto mode. Tests for features that an origin does not have, such as
connections to drop or a deadline, pass at once.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from trigger_sources.context import MissingSecret, SourceError
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import FabricStore, LocalHost
from trigger_sources.http.gateway import Gateway
from trigger_sources.observe.metrics import exposition
from trigger_sources.source import TriggerSource
from trigger_sources.spec import SecretRef
from trigger_sources.stores.sqlite import Store
from trigger_sources.testing.stand_in import MemoryState, StandInContext

_DELIVERED = Outcome("delivered")
_RETURNED = Outcome("returned")


@dataclass(frozen=True)
class Origin:
    """The far side of a source under test, and the trigger that reads from it."""

    trigger: TriggerSource
    produce: Callable[[int], Awaitable[None]]  # makes so many events, which may all have the same data
    interrupt: Callable[[], Awaitable[None]] | None = None  # drops the source's connections; None: it has none
    deadline_seconds: float | None = None  # an event that is not settled or extended for so long is handed out again
    patience_seconds: float = 20  # the time limit for an event from the origin to the trigger
    secrets: Mapping[tuple[str, str], str] = field(default_factory=dict)  # text by Secret's name and key
    gateway: Gateway | None = None
    store: FabricStore | None = None  # for triggers with an inbox


class SourceContract:
    """Every test opens its own origin."""

    def origin(self) -> AbstractAsyncContextManager[Origin]:
        """The one required method: an async context manager that yields an Origin without events."""
        raise NotImplementedError(f"{type(self).__name__} defines no origin()")

    async def test_every_event_has_its_attributes_and_a_position_of_its_own(self) -> None:
        async with self.origin() as origin, reader(origin) as it:
            await origin.produce(2)
            await origin.produce(2)
            taken = await it.until(4)
            for delivery in taken:
                event = delivery.event
                assert event.id
                assert event.source
                assert event.type
            positions = [delivery.position for delivery in taken]
            assert len(set(positions)) == len(positions) or set(positions) == {None}, positions

    async def test_a_source_yields_no_more_events_than_there_is_room_for(self) -> None:
        async with self.origin() as origin, reader(origin, limit=2) as it:
            await origin.produce(5)
            first = await it.until(2)
            await it.quiet(1.0)
            assert len(it.held) <= 2, "it yielded more events than there was room for"
            for delivery in first:
                await it.settle(delivery)
            for delivery in (await it.until(4))[2:]:
                await it.settle(delivery)
            await it.until(5)

    async def test_after_a_crash_unsettled_events_come_again_and_settled_ones_do_not(self) -> None:
        async with self.origin() as origin:
            async with reader(origin) as it:
                await origin.produce(4)
                taken = await it.until(4)
                for delivery in taken[:2]:
                    await it.settle(delivery)
                state = it.context.state
                await it.crash()
            async with reader(origin, state=state) as it:
                again = await it.until_positions({delivery.position for delivery in taken[2:4]})
                settled = {delivery.position for delivery in taken[:2]}
                assert not settled & {delivery.position for delivery in again}, "settled, and handed out again"
                ids = {delivery.position: delivery.event.id for delivery in again}
                for delivery in taken[2:4]:
                    assert ids[delivery.position] == delivery.event.id, "an event's id changed"

    async def test_a_source_stops_within_a_second(self) -> None:
        async with self.origin() as origin, reader(origin) as it:
            await origin.produce(1)
            await it.until(1)
            started = time.monotonic()
            it.context.stopping.set()
            await it.ended(2.0)  # a read may take a second
            await it.crash()
            assert time.monotonic() - started < 3.0, "it did not stop"

    async def test_returned_events_go_to_another_replica_without_a_time_out(self) -> None:
        async with self.origin() as origin:
            async with reader(origin) as it:
                await origin.produce(3)
                taken = await it.until(3)
                for delivery in taken:
                    await it.settle(delivery, _RETURNED)
                state = it.context.state
                it.context.stopping.set()
            async with reader(origin, state=state, replica="replica-1") as it:
                await it.until_positions({delivery.position for delivery in taken[:3]})

    async def test_a_late_settle_does_no_harm(self) -> None:
        async with self.origin() as origin:
            async with reader(origin) as it:
                await origin.produce(3)
                taken = await it.until(3)
                state = it.context.state
                await it.crash()
                late = asyncio.ensure_future(_settled(taken[0]))
                done, _ = await asyncio.wait({late}, timeout=5)
                assert done, "a late settle hangs"
                late.exception()  # it may raise any exception
            async with reader(origin, state=state) as it:
                await it.until_positions({delivery.position for delivery in taken[1:3]})

    async def test_lag_grows_while_no_event_is_settled(self) -> None:
        async with self.origin() as origin, reader(origin, limit=1) as it:
            await origin.produce(4)
            await it.until(1)
            if await origin.trigger.lag(it.context) is None:
                return  # the source does not know its lag
            async with asyncio.timeout(origin.patience_seconds):
                while True:
                    lag = await origin.trigger.lag(it.context)
                    if lag is None or lag.events is None or lag.events >= 3:
                        break
                    await asyncio.sleep(0.1)

    async def test_an_extended_event_is_not_handed_out_again(self) -> None:
        async with self.origin() as origin, reader(origin) as it:
            if origin.deadline_seconds is None:
                return
            await origin.produce(1)
            (held,) = await it.until(1)
            assert held.extend is not None, "there is a deadline, and no way to extend it"
            until = time.monotonic() + 3 * origin.deadline_seconds
            while time.monotonic() < until:
                await held.extend()
                await asyncio.sleep(origin.deadline_seconds / 4)
            assert len(it.taken) == 1, "handed out again while it was held"

    async def test_a_missing_secret_is_reported(self) -> None:
        async with self.origin() as origin:
            if not origin.secrets:
                return
            context = _context(origin, secrets={})
            try:
                await origin.trigger.prepare(context)
                async with asyncio.timeout(origin.patience_seconds):
                    async for _ in origin.trigger.deliveries(context):
                        pass
            except SourceError as error:
                assert error.reason, error  # noqa: PT017  no test compares the text
            else:
                raise AssertionError("it runs without its secret")
            finally:
                await context.close()

    async def test_a_source_continues_after_a_dropped_connection(self) -> None:
        async with self.origin() as origin, reader(origin) as it:
            if origin.interrupt is None:
                return
            await origin.produce(2)
            await it.until(2)
            await origin.interrupt()
            await origin.produce(2)
            await it.until_distinct(4)

    async def test_after_a_dropped_connection_no_function_is_called_twice_for_a_held_event(
        self, tmp_path: Path
    ) -> None:
        async with self.origin() as origin:
            if origin.interrupt is None:
                return
            release = asyncio.Event()

            async def answer(request: web.BaseRequest) -> web.Response:
                await release.wait()
                return web.Response()

            async with called(answer) as function, flow(origin, function.url, tmp_path) as found:
                await origin.produce(3)
                await _until(lambda: len(function.ids) >= 1, origin.patience_seconds)
                await origin.interrupt()
                await origin.produce(1)
                release.set()
                await _until(lambda: len(set(function.ids)) >= 4, origin.patience_seconds)
                await _until(lambda: found.dispatcher.held == 0, origin.patience_seconds)
                assert sorted(function.ids) == sorted(set(function.ids)), "called twice"

    async def test_a_source_gets_retries_dead_letters_and_metrics_without_code_of_its_own(self, tmp_path: Path) -> None:
        tries: dict[str, int] = {}
        poison: list[str] = []

        async def answer(request: web.BaseRequest) -> web.Response:
            event_id = request.headers["ce-id"]
            tries[event_id] = tries.get(event_id, 0) + 1
            if not poison:
                poison.append(event_id)
            if event_id in poison:
                return web.Response(status=422)
            return web.Response(status=503 if tries[event_id] < 3 else 200)

        async with (
            self.origin() as origin,
            called(answer) as function,
            flow(origin, function.url, tmp_path) as found,
        ):
            await origin.produce(3)
            counters = found.dispatcher.counters
            await _until(lambda: counters.delivered >= 2 and counters.deadLettered >= 1, origin.patience_seconds)
            assert found.dead_letters is not None
            letters = [letter async for letter in found.dead_letters.letters()]
            assert [(letter.event.id, letter.reason) for letter in letters] == [(poison[0], "PermanentAnswer")]
            assert 'kubeirq_events_delivered_total{kind="' in exposition([found.reading()])


class Reader:
    """The fabric's side of a source: the one task that pulls, with a limit of held events."""

    def __init__(self, origin: Origin, context: StandInContext, limit: int) -> None:
        self.origin = origin
        self.context = context
        self.taken: list[Delivery] = []
        self.held: list[Delivery] = []
        self._limit = limit
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._pull())

    async def _pull(self) -> None:
        while not self.context.stopping.is_set():
            generator = self.origin.trigger.deliveries(self.context)
            try:
                while not self.context.stopping.is_set():
                    if self.context.room <= 0:
                        self._changed.clear()
                        await self._changed.wait()
                        continue
                    deliveries = await anext(generator)
                    assert len(deliveries) <= self.context.room, f"{len(deliveries)} for a room of {self.context.room}"
                    self.taken += deliveries
                    self.held += deliveries
                    self.context.room = self._limit - len(self.held)
            except StopAsyncIteration:
                return
            except (AssertionError, asyncio.CancelledError):
                raise
            except Exception as error:  # noqa: BLE001  the fabric restarts it after any exception
                self.context.report(connected=False, reason="SourceFailed", message=repr(error))
                await asyncio.sleep(0.1)
            finally:
                await generator.aclose()  # type: ignore[attr-defined]

    async def until(self, count: int) -> Sequence[Delivery]:
        """The deliveries so far, once there are so many."""
        await self._until(lambda: len(self.taken) >= count)
        return tuple(self.taken)

    async def until_distinct(self, count: int) -> None:
        await self._until(lambda: len({delivery.position or delivery.event.id for delivery in self.taken}) >= count)

    async def until_positions(self, positions: set[str | None]) -> Sequence[Delivery]:
        await self._until(lambda: positions <= {delivery.position for delivery in self.taken})
        return tuple(self.taken)

    async def settle(self, delivery: Delivery, outcome: Outcome = _DELIVERED) -> None:
        await delivery.settle(outcome)
        self.held.remove(delivery)
        self.context.room = self._limit - len(self.held)
        self._changed.set()

    async def quiet(self, seconds: float) -> None:
        """Waits, so that a faulty source can do something wrong."""
        await asyncio.wait({self._task}, timeout=seconds)
        self._raise_its_own()

    async def ended(self, seconds: float) -> None:
        """Waits for the end of a running read, whose events the fabric gives back."""
        self._changed.set()
        await asyncio.wait({self._task}, timeout=seconds)

    async def crash(self) -> None:
        """Closes the source with everything unsettled."""
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=self.origin.patience_seconds)
        assert self._task.done(), "it does not close"
        self._raise_its_own()

    def _raise_its_own(self) -> None:
        if self._task.done() and not self._task.cancelled() and self._task.exception() is not None:
            self._task.result()

    async def _until(self, happened: Callable[[], bool]) -> None:
        def is_over() -> bool:
            self._raise_its_own()
            return happened()

        try:
            await _until(is_over, self.origin.patience_seconds)
        except TimeoutError:
            found = [delivery.position for delivery in self.taken]
            raise AssertionError(f"events are missing; came: {found}; reports: {self.context.reports[-3:]}") from None


@asynccontextmanager
async def reader(
    origin: Origin, *, limit: int = 64, state: MemoryState | None = None, replica: str = "replica-0"
) -> AsyncIterator[Reader]:
    """A reader of the origin, which is closed at the end."""
    context = _context(origin, secrets=origin.secrets, state=state, replica=replica)
    context.limit = context.room = limit
    await origin.trigger.prepare(context)
    found = Reader(origin, context, limit)
    try:
        yield found
    finally:
        context.stopping.set()
        await found.crash()
        await context.close()


@dataclass
class Called:
    """A function that the test controls."""

    url: str
    ids: list[str] = field(default_factory=list)  # of the events that it was called with


@asynccontextmanager
async def called(answer: Callable[[web.BaseRequest], Awaitable[web.Response]]) -> AsyncIterator[Called]:
    """An HTTP server on a free port, as the function."""
    found = Called("")

    async def note(request: web.BaseRequest) -> web.StreamResponse:
        found.ids.append(request.headers.get("ce-id", ""))
        return await answer(request)

    runner = web.ServerRunner(web.Server(note))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield found
    finally:
        await runner.cleanup()


@asynccontextmanager
async def flow(origin: Origin, url: str, folder: Path) -> AsyncIterator[Flow]:
    """The origin's trigger in a flow of the fabric."""
    delivery = origin.trigger.delivery.model_copy(update={"backoff_seconds": 0.01, "backoff_max_seconds": 0.05})
    trigger = origin.trigger.model_copy(update={"delivery": delivery})
    kind = type(trigger).__name__

    def secret(namespace: str, reference: SecretRef) -> str:
        try:
            return origin.secrets[reference.name, reference.key]
        except KeyError:
            raise MissingSecret(f"secret {reference.name!r} has no key {reference.key!r}") from None

    async with Store.open(folder / "contract.sqlite") as own:
        gate = Gate("function", url)
        host = LocalHost(
            replica="replica-0",
            store=origin.store or own,
            gateway=origin.gateway or Gateway(),
            secrets=secret,
            defaults={},
        )
        found = Flow(
            trigger,
            kind=kind,
            namespace="default",
            name="trigger",
            uid="default/trigger",
            function="function",
            gate=gate,
            host=host,
            gate_of=lambda name: gate,
        )
        running = asyncio.create_task(found.run())
        try:
            await _until(lambda: found.connected[0], origin.patience_seconds)
            yield found
        finally:
            await found.stop(5)
            await running
            await gate.aclose()


def _context(origin: Origin, **given: Any) -> StandInContext:
    if given.get("state") is None:
        given.pop("state", None)
    inbox = origin.store.inbox("default/trigger") if origin.store is not None else None
    return StandInContext(gateway=origin.gateway, inbox_=inbox, **given)


async def _settled(delivery: Delivery) -> None:
    await delivery.settle(_DELIVERED)


async def _until(happened: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not happened():  # noqa: ASYNC110  the source does not set an event for the test
            await asyncio.sleep(0.01)
