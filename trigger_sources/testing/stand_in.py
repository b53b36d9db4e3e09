"""A stand-in for the fabric: a context that a test passes to a source."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trigger_sources.context import MissingSecret
from trigger_sources.delivery import Delivery
from trigger_sources.http_requests import Requests, Route
from trigger_sources.inbox import Inbox
from trigger_sources.spec import SecretRef

T = TypeVar("T")


class MemoryState:
    """A State in memory."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)


@dataclass
class StandInContext:
    """A Context without a fabric: the test sets `room`, and can look at the reports and losses."""

    namespace: str = "default"
    name: str = "trigger"
    uid: str = "default/trigger"
    function: str = "function"
    replica: str = "replica-0"
    limit: int = 64
    room: int = 64
    read_ahead_bytes: int = 16 * 1024 * 1024
    defaults: Mapping[str, Sequence[str]] = field(default_factory=dict)
    own_servers: Collection[str] = ()
    secrets: Mapping[tuple[str, str], str] = field(default_factory=dict)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    state: MemoryState = field(default_factory=MemoryState)
    reports: list[tuple[bool, str, str]] = field(default_factory=list)
    lost: list[tuple[int, str]] = field(default_factory=list)
    refused: int = 0
    withdrawn: list[Callable[[Delivery], bool]] = field(default_factory=list)
    on_withdraw: Callable[[Callable[[Delivery], bool], float], Awaitable[None]] | None = None
    may_start: Callable[[], bool] = lambda: True
    gateway: Any = None
    inbox_: Any = None
    _shared: dict[str, tuple[Any, Callable[[Any], Awaitable[None]]]] = field(default_factory=dict)

    async def secret(self, reference: SecretRef) -> str:
        try:
            return self.secrets[reference.name, reference.key]
        except KeyError:
            raise MissingSecret(f"secret {reference.name!r} has no key {reference.key!r}") from None

    def report(self, *, connected: bool, reason: str = "", message: str = "") -> None:
        self.reports.append((connected, reason, message))

    def report_lost(self, count: int, reason: str) -> None:
        self.lost.append((count, reason))

    def report_refused(self, count: int) -> None:
        self.refused += count

    async def withdraw(self, lost: Callable[[Delivery], bool], grace_seconds: float) -> None:
        self.withdrawn.append(lost)
        if self.on_withdraw is not None:
            await self.on_withdraw(lost, grace_seconds)

    def start_only_while(self, may_start: Callable[[], bool]) -> Callable[[], None]:
        self.may_start = may_start
        return lambda: None

    def requests(self, route: Route) -> AbstractAsyncContextManager[Requests]:
        found: AbstractAsyncContextManager[Requests] = self.gateway.requests(self.uid, route)
        return found

    def inbox(self) -> Inbox:
        found: Inbox = self.inbox_
        return found

    async def shared(self, key: str, open: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]) -> T:
        if key not in self._shared:
            self._shared[key] = (await open(), close)
        found: T = self._shared[key][0]
        return found

    async def close(self) -> None:
        """Closes the shared connections."""
        while self._shared:
            _, (connection, close) = self._shared.popitem()
            await close(connection)
