"""A source whose broker is a list in the test's hands: what a plugin author would write, and no more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trigger_sources import SETTLED, Context, Delivery, Event, Outcome, SourceError, TriggerSource


@dataclass
class Broker:
    """Events by position. Unsettled events are handed out again to the next reader."""

    waiting: list[tuple[str, bytes | None, bytes]] = field(default_factory=list)  # position, key, data
    handed_out: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    taken: dict[str, tuple[str, bytes | None, bytes]] = field(default_factory=dict)
    extended: dict[str, int] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    broken: str | None = None  # a read raises this, once
    always_broken: str | None = None  # each read raises this
    settle_fails: Callable[[str], bool] = lambda position: False
    reads: int = 0
    most_taken: int = 0
    published: int = 0
    settles_at_once: bool = field(default_factory=lambda: Broker.all_settle_at_once)
    all_settle_at_once: ClassVar[bool] = False

    def publish(self, data: bytes = b"{}", key: str | None = None, position: str | None = None) -> str:
        self.published += 1
        position = position or str(self.published)
        self.waiting.append((position, None if key is None else key.encode(), data))
        self.news.set()
        return position

    def redeliver(self) -> None:
        """As after a lost connection: everything that is taken and not settled waits again."""
        self.waiting = sorted([*self.taken.values(), *self.waiting], key=lambda item: int(item[0]))
        self.taken.clear()
        self.news.set()

    def final(self) -> dict[str, str]:
        """The final outcome's kind by position."""
        return {
            position: [outcome.kind for outcome in outcomes if outcome.final][-1]
            for position, outcomes in self.outcomes.items()
            if any(outcome.final for outcome in outcomes)
        }


BROKERS: dict[str, Broker] = {}


class ListTrigger(TriggerSource):
    """Calls a function for each event of a list."""

    broker: str
    extend_seconds: ClassVar[float] = 0.05
    waits: bool = False

    @property
    def callers_wait(self) -> bool:
        return self.waits

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        broker = BROKERS[self.broker]
        context.report(connected=True)
        alive = True
        try:
            while not context.stopping.is_set():
                broker.reads += 1
                if broker.always_broken:
                    raise SourceError("Broken", broker.always_broken)
                if broker.broken:
                    problem, broker.broken = broker.broken, None
                    raise SourceError("Broken", problem)
                if not broker.waiting:
                    broker.news.clear()
                    try:
                        async with asyncio.timeout(0.2):
                            await broker.news.wait()
                    except TimeoutError:
                        continue
                room = context.room
                items, broker.waiting = broker.waiting[:room], broker.waiting[room:]
                batch = []
                for item in items:
                    position, key, data = item
                    broker.taken[position] = item
                    broker.handed_out[position] = broker.handed_out.get(position, 0) + 1

                    def settle_now(outcome: Outcome, position: str = position, item: Any = item) -> Awaitable[None]:
                        if not alive or broker.settle_fails(position):
                            raise ConnectionError("the broker is gone")
                        broker.outcomes.setdefault(position, []).append(outcome)
                        broker.taken.pop(position, None)
                        if not outcome.final:
                            broker.waiting.append(item)
                        return SETTLED

                    async def settle(
                        outcome: Outcome, settle_now: Callable[[Outcome], Awaitable[None]] = settle_now
                    ) -> None:
                        await settle_now(outcome)

                    async def extend(position: str = position) -> None:
                        broker.extended[position] = broker.extended.get(position, 0) + 1

                    event = Event(f"event-{position}", "/list", "test.event", data, "application/json")
                    batch.append(
                        Delivery(
                            event, settle_now if broker.settles_at_once else settle, position, key,
                            extend=extend, handed_out=broker.handed_out[position], caller_waits=self.waits,
                            settles_at_once=broker.settles_at_once,
                        )
                    )  # fmt: skip
                broker.most_taken = max(broker.most_taken, len(broker.taken))
                yield batch
        finally:
            alive = False
