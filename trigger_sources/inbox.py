"""A trigger's durable queue, for events that are accepted before they are delivered."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trigger_sources.delivery import Outcome


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A record that was handed out: nobody else gets it until it is given back.

    `settle(outcome)` removes it for good, or gives it back if the outcome is not final. If it raises, the record is
    handed out again. `position` is unique per trigger and never reused. `extend()`, awaited every ten seconds, keeps a
    broker's deadline from passing; None: there is none. `handed_out` counts, this time included, as far as is known.
    """

    position: str
    record: bytes
    settle: Callable[[Outcome], Awaitable[None]]
    extend: Callable[[], Awaitable[None]] | None = None
    handed_out: int = 1


class Inbox(Protocol):
    """The records of one trigger, in the order in which they were appended. Every method may raise SourceError.

    Several processes may have the same one open. What a process held that is no more, others get.
    """

    @property
    def largest_bytes(self) -> int | None:
        """No larger record is taken; None: there is no such bound."""

    @property
    def must_give_back(self) -> bool:
        """Whether this process took records, and may not any more: another is about to take them."""

    async def prepare(self) -> None:
        """Creates what is needed and tests the rights to it."""

    async def append_all(self, records: Sequence[bytes]) -> None:
        """Returns once all of them are durable. If it raises, some of them may be nevertheless."""

    async def take(self, limit: int, timeout_seconds: float, *, in_order: bool = False) -> list[Kept]:
        """The oldest records that nobody holds, at most `limit`, one or more; empty when none came in time.

        `in_order`: what another process held, and may come back, is waited for before anything newer is handed out.
        """

    async def count(self) -> int:
        """How many records there are, also those that are held. It counts: not for every event."""

    async def give_back(self) -> None:
        """What is held here and not settled may be handed out again, here or elsewhere. Settling it does no harm."""
