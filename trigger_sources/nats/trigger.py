"""The NATSTrigger resource."""

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

from trigger_sources.context import Context
from trigger_sources.dead_letters import DeadLetters
from trigger_sources.delivery import Delivery
from trigger_sources.nats.consumer import consumer_info, unsettled
from trigger_sources.nats.core import CoreSubscription
from trigger_sources.nats.dead_letters import StreamDeadLetters
from trigger_sources.nats.jetstream import Consumption, running
from trigger_sources.nats.place import consumer_in, kept_place
from trigger_sources.nats.source_stream import find_stream
from trigger_sources.nats.spec import NATSSpec
from trigger_sources.source import Lag, Ordering, Sharing


class NATSTrigger(NATSSpec):
    """Calls a function for each message of a NATS subject: from a JetStream stream, or a core subject at most once."""

    sharing: ClassVar[Sharing] = "competing"
    default_ordering: ClassVar[Ordering] = "none"
    letter_fields: ClassVar[Sequence[str]] = ("mode", "servers")
    printer_columns: ClassVar[Mapping[str, str]] = {"Subject": "subject"}

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        consumption = Consumption(self, context) if self.mode == "jetstream" else CoreSubscription(self, context)
        try:
            await consumption.start()
            while not context.stopping.is_set():
                deliveries = await consumption.read()
                if deliveries:
                    yield deliveries
        finally:
            await consumption.close()

    async def prepare(self, context: Context) -> None:
        """Checks that the stream exists, or creates it if that is allowed."""
        if self.mode == "jetstream":
            await find_stream(await self.connection(context), self.wish(context, await self._consumer(context)))

    async def lag(self, context: Context) -> Lag | None:
        if self.mode == "core":
            return None
        if (consumption := running(context)) is not None:
            return await consumption.look()
        connection, consumer = await self.connection(context), await self._consumer(context)
        stream = await find_stream(connection, self.wish(context, consumer))
        info = await consumer_info(connection, stream.name, consumer)
        return Lag(unsettled(info)) if info is not None else None

    def uncommitted(self, context: Context) -> int | None:
        consumption = running(context) if self.mode == "jetstream" else None
        return consumption.uncommitted if consumption is not None else None

    async def _consumer(self, context: Context) -> str:
        return consumer_in(await kept_place(context.state), self, context)

    def dead_letters(self, context: Context) -> DeadLetters | None:
        if self.mode == "core":
            return None
        stream = self.delivery.dead_letter.name or f"kubeirq-{context.namespace}-{context.name}-dead-letters"
        return StreamDeadLetters(partial(self.connection, context), stream, context.uid, context.function)
