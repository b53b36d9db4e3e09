"""The time for which the group's coordinator still counts this member in."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer


class Session:
    """Ends so many seconds after the last good heartbeat: from then on another member may have the partitions.

    A process that was stopped for longer finds out when it wakes, before its first heartbeat.
    """

    def __init__(self, seconds: float) -> None:
        self.on_renewed: Callable[[], None] = lambda: None  # called after it had lapsed
        self._seconds = seconds
        self._ends_at = float("-inf")
        self._may_commit = True

    def watch(self, consumer: AIOKafkaConsumer) -> None:
        """Follows the consumer's heartbeats. The client itself keeps their times in a local variable."""
        coordinator: Any = consumer._coordinator
        beat: Callable[[], Awaitable[bool]] = coordinator._do_heartbeat

        async def watched() -> bool:
            sent_at = time.monotonic()
            good = await beat()
            if good:
                self.renew(sent_at)
            return good

        coordinator._do_heartbeat = watched

    def renew(self, at: float) -> None:
        """The coordinator counted this member in at that time, of the monotonic clock."""
        lapsed = not self.lasts()
        self._ends_at = max(self._ends_at, at + self._seconds)
        if lapsed and self.lasts():
            self.on_renewed()

    def may_commit(self, may: bool) -> None:
        """While commits are refused it does not last: everything that is delivered would be delivered again."""
        changed, self._may_commit = may != self._may_commit, may
        if changed and self.lasts():
            self.on_renewed()

    def lasts(self) -> bool:
        return self._may_commit and time.monotonic() < self._ends_at
