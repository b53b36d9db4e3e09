"""A trigger's durable queue, for events that are accepted before they are delivered."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trigger_sources.delivery import Outcome

STORE_AWAY = "StoreUnavailable"  # the reason while nobody knows whether a store keeps anything: it may come back


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A record that was handed out. No other process gets it until it is given back.

    `settle(outcome)` removes it for good, or gives it back if the outcome is not final. If it raises, the record is
    handed out again. `position` is unique per trigger and never reused. `extend()`, awaited every ten seconds, extends
    the broker's deadline; None: there is no deadline. `handed_out` counts how often the record was handed out, this
    time included, as far as is known.
    """

    position: str
    record: bytes
    settle: Callable[[Outcome], Awaitable[None]]
    extend: Callable[[], Awaitable[None]] | None = None
    handed_out: int = 1


class Inbox(Protocol):
    """The records of one trigger, in the order in which they were appended. Every method may raise SourceError.

    Several processes may open the same inbox. Other processes get the records that a dead process held.
    """

    @property
    def largest_bytes(self) -> int | None:
        """The size of the largest record that the inbox accepts; None: there is no bound."""

    @property
    def must_give_back(self) -> bool:
        """Whether this process took records and no longer may, because another process is about to take them."""

    async def prepare(self) -> None:
        """Creates the storage if needed, and tests the rights to it."""

    async def check_room(self, size: int) -> None:
        """Raises SourceError if the storage would refuse a record of `size` bytes now, as far as it can tell.

        Leaves nothing behind.
        """

    async def append_all(self, records: Sequence[bytes], batch: str = "") -> None:
        """Returns once all of them are durable. If it raises, some of them may be durable nevertheless.

        `batch`: a name for these records. Under the same name they may be appended again within a minute, and those
        that are durable already are there once.
        """

    async def take(self, limit: int, timeout_seconds: float, *, in_order: bool = False) -> list[Kept]:
        """The oldest records that no process holds, at most `limit`; empty when none came in time.

        `in_order`: records that another process held, and that may come back, come before any newer record.
        """

    async def count(self) -> int:
        """The number of records, held ones included. Expensive: do not call it for every event."""

    async def give_back(self) -> None:
        """Lets the records that are held here and not settled be handed out again, here or elsewhere.

        It does no harm to settle such a record later.
        """
