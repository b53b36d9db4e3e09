"""Parts of the tests of a NATS trigger's source: the trigger, JetStream's API, and a generator that is read."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats

from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.nats import NATSTrigger
from trigger_sources.testing import StandInContext

DONE = Outcome("delivered")


def trigger(url: str | None, **spec: Any) -> NATSTrigger:
    servers = {} if url is None else {"servers": [url]}
    return NATSTrigger.model_validate({"function": "f", "subject": "orders", **servers, **spec})


class JetStream:
    """JetStream's API, as an operator uses it."""

    def __init__(self, connection: nats.NATS) -> None:
        self.connection = connection

    async def api(self, subject: str, request: Any = None) -> Any:
        """The answer, also where it is an error."""
        body = b"" if request is None else json.dumps(request).encode()
        return json.loads((await self.connection.request(f"$JS.API.{subject}", body, timeout=5)).data)

    async def create(self, stream: str, subjects: Sequence[str], **config: Any) -> None:
        made = {"name": stream, "subjects": list(subjects), "storage": "file", **config}
        answer = await self.api(f"STREAM.CREATE.{stream}", made)
        assert "error" not in answer, answer

    async def subjects(self) -> dict[str, list[str]]:
        """The subjects of every stream."""
        found = await self.api("STREAM.LIST")
        return {stream["config"]["name"]: stream["config"]["subjects"] for stream in found["streams"] or ()}

    async def publish(self, subject: str, count: int, data: bytes = b"") -> None:
        for number in range(count):
            await self.connection.jetstream().publish(subject, data or b"%d" % number)

    async def consumer(self, stream: str, name: str) -> Any:
        return await self.api(f"CONSUMER.INFO.{stream}.{name}")


@asynccontextmanager
async def jetstream(url: str) -> AsyncIterator[JetStream]:
    connection = await nats.connect(url)
    try:
        yield JetStream(connection)
    finally:
        await connection.close()


class Reader:
    """A trigger's generator and what it yielded."""

    def __init__(self, spec: NATSTrigger, context: StandInContext) -> None:
        self.spec = spec
        self.context = context
        self.generator: Any = None
        self._first: asyncio.Future[Any] | None = None

    async def start(self) -> None:
        """Returns once the source has reported how it is."""
        await self.spec.prepare(self.context)
        self.generator = self.spec.deliveries(self.context)
        self._first = asyncio.ensure_future(anext(self.generator))
        async with asyncio.timeout(20):
            while not self.context.reports and not self._first.done():
                await asyncio.sleep(0.01)

    def read_ahead(self) -> asyncio.Future[Any]:
        """Begins to read: `next` takes the result."""
        if self._first is None:
            self._first = asyncio.ensure_future(anext(self.generator))
        return self._first

    async def next(self) -> list[Delivery]:
        first, self._first = self._first, None
        return list(await (first if first is not None else anext(self.generator)))

    async def until(self, count: int, settle: bool = True) -> list[Delivery]:
        """The next events, exactly so many."""
        found: list[Delivery] = []
        async with asyncio.timeout(20):
            while len(found) < count:
                found += await self.next()
        assert len(found) == count, [delivery.position for delivery in found]
        if settle:
            for delivery in found:
                await delivery.settle(DONE)
        return found

    async def error(self) -> Any:
        """The error that ends the generator."""
        try:
            async with asyncio.timeout(20):
                while True:
                    await self.next()
        except (TimeoutError, StopAsyncIteration):
            raise AssertionError("it reads on") from None
        except Exception as error:
            return error

    async def stop(self) -> None:
        self.context.stopping.set()
        if self._first is not None:
            await asyncio.wait({self._first})
        await self.generator.aclose()

    @property
    def report(self) -> tuple[bool, str, str]:
        return self.context.reports[-1]


@asynccontextmanager
async def reading(spec: NATSTrigger, context: StandInContext | None = None) -> AsyncIterator[Reader]:
    """Reads with its own connection; it stops as the fabric stops it. The context's state outlives it."""
    found = Reader(spec, context or StandInContext())
    await found.start()
    try:
        yield found
    finally:
        await found.stop()
        await found.context.close()


def later(context: StandInContext, **changes: Any) -> StandInContext:
    """A context of the same trigger in a later process, with its durable state."""
    given = {"name": context.name, "uid": context.uid, "function": context.function, **changes}
    return StandInContext(state=context.state, defaults=context.defaults, own_servers=context.own_servers, **given)
