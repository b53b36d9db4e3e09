"""The stand-in for a store where none is configured. Its errors say how to configure one."""

from collections.abc import AsyncIterator, Sequence

from trigger_sources.context import SourceError
from trigger_sources.dead_letters import DeadLetter
from trigger_sources.inbox import Kept

_GET_ONE = "name JetStream servers in the chart's value store.nats.servers, or set store.embedded.enabled"


class NoStore:
    """Refuses to keep dead letters and accepted events, before the first of them."""

    def dead_letters(self, uid: str, function: str) -> "NoDeadLetters":
        return NoDeadLetters()

    def inbox(self, uid: str) -> "NoInbox":
        return NoInbox()


class NoDeadLetters:
    """There are no dead letters, and none can be written."""

    async def prepare(self) -> None:
        raise SourceError(
            "NoStore",
            f"spec.delivery.onFailure: there is no store for dead letters: {_GET_ONE},"
            " or set spec.delivery.onFailure to park or drop (and spec.filterError, with a filter, to deliver or drop)",
        )

    async def write(self, letter: DeadLetter) -> None:
        await self.prepare()

    async def letters(self) -> AsyncIterator[DeadLetter]:
        nothing: tuple[DeadLetter, ...] = ()
        for letter in nothing:
            yield letter

    async def count(self) -> int:
        return 0

    async def remove(self, letter: DeadLetter) -> None:
        """Does nothing: there is no letter."""

    async def close(self) -> None:
        """Does nothing: nothing is open."""


class NoInbox:
    """An inbox that accepts nothing."""

    largest_bytes = None
    must_give_back = False

    async def prepare(self) -> None:
        raise SourceError(
            "NoStore",
            f"spec.answer: there is no store for accepted events: {_GET_ONE}, or set spec.answer to function",
        )

    async def check_room(self, size: int) -> None:
        await self.prepare()

    async def append_all(self, records: Sequence[bytes], batch: str = "") -> None:
        await self.prepare()

    async def take(self, limit: int, timeout_seconds: float, *, in_order: bool = False) -> list[Kept]:
        await self.prepare()
        return []

    async def count(self) -> int:
        return 0

    async def give_back(self) -> None:
        """Does nothing: nothing was taken."""
