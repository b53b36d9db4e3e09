"""The table of the triggers that run in every replica, for the other replicas."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Literal

_MOST_GONE = 1_000  # triggers that were told of and are not served any more; beyond that, an answer is whole


@dataclass(frozen=True, slots=True)
class Served:
    """One trigger in one replica: the generation of the spec that runs there, and the replica's own Ready."""

    generation: int
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


class ServedTriggers:
    """A table of `Served` by the trigger's uid, whose changes are numbered. Lives in one event loop.

    An answer has the changes since the number that the asker has, or everything if the number is not of this process.
    """

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._process = token_hex(6)
        self._number = 0
        self._whole_before = 0  # the table does not have every change before this number
        self._table: dict[str, tuple[int, Served | None]] = {}  # the latest change last
        self._gone = 0
        self._takes_requests = False
        self._changed = asyncio.Event()
        self._is_closed = False

    def tell(self, uid: str, served: Served | None) -> None:
        """Notes how this replica serves the trigger. None: it does not serve it."""
        before = self._table.get(uid)
        if (None if before is None else before[1]) == served:
            return
        if before is not None:
            del self._table[uid]
            self._gone -= before[1] is None
        self._number += 1
        self._table[uid] = self._number, served
        self._gone += served is None
        if self._gone > _MOST_GONE:
            self._table = {uid: found for uid, found in self._table.items() if found[1] is not None}
            self._gone, self._whole_before = 0, self._number
        self._changed.set()

    def retain(self, uids: Collection[str]) -> None:
        """The triggers with other uids are gone."""
        for uid in [uid for uid, (_, served) in self._table.items() if served is not None and uid not in uids]:
            self.tell(uid, None)

    def takes_requests(self) -> None:
        """From now on this replica counts, even for askers to whom the cluster does not show it yet."""
        self._takes_requests = True
        self._number += 1
        self._changed.set()

    def close(self) -> None:
        """Answers everybody who waits for a change."""
        self._is_closed = True
        self._changed.set()

    async def answer(self, since: str, seconds: float) -> dict[str, Any]:
        """The changes since that answer, as soon as there is one, or after so many seconds."""
        process, _, number = since.partition(".")
        known = int(number) if process == self._process and number.isdecimal() else -1
        if known == self._number and not self._is_closed:
            self._changed.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass
        is_whole = known < self._whole_before
        changes: dict[str, list[Any] | None] = {}
        for uid, (changed, served) in reversed(self._table.items()):
            if changed <= known and not is_whole:
                break
            if served is not None:
                changes[uid] = [served.generation, served.status, served.reason, served.message]
            elif not is_whole:
                changes[uid] = None
        return {
            "replica": self._replica,
            "since": f"{self._process}.{self._number}",
            "takesRequests": self._takes_requests,
            "whole": is_whole,
            "triggers": changes,
        }
