"""All that a source may ask of the fabric, and the errors that it raises. Part of the plugin API."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from trigger_sources.delivery import Delivery
from trigger_sources.http_requests import Requests, Route
from trigger_sources.inbox import Inbox
from trigger_sources.spec import SecretRef

T = TypeVar("T")


class SourceError(Exception):
    """A source cannot go on as it is: the operator's or the broker's fault.

    `reason` is a CamelCase word for a condition.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class MissingSecret(SourceError):
    """A SecretRef names a Secret or a key that is not there. The text names both ways out."""

    def __init__(self, message: str) -> None:
        super().__init__("SecretMissing", message)


class State(Protocol):
    """A small durable key-value store, for cursors. Writes are coalesced: `put` returns once the value is durable."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes) -> None: ...

    async def delete(self, key: str) -> None: ...


class Context(Protocol):
    """All that a source may ask of the fabric. One per trigger and function."""

    namespace: str
    name: str  # the trigger's
    uid: str
    function: str  # the function's name, or the URL's host for a plain URL
    replica: str  # this process, stable while it lives
    stopping: asyncio.Event  # set when no more is wanted; what a read still brings will be settled `returned`
    defaults: Mapping[str, Sequence[str]]  # addresses where the spec names none, by kind: "kafka", "nats"

    @property
    def state(self) -> State:
        """This trigger's own."""

    @property
    def limit(self) -> int:
        """How many deliveries may be held at most: taken and not settled."""

    @property
    def room(self) -> int:
        """How many deliveries may be yielded now."""

    async def secret(self, reference: SecretRef) -> str:
        """The secret's text. Raises MissingSecret."""

    def report(self, *, connected: bool, reason: str = "", message: str = "") -> None:
        """Says whether the source is connected, for conditions, metrics and logs. Cheap: only changes are shown."""

    def report_lost(self, count: int, reason: str) -> None:
        """Says that the source itself lost events (retention took them) before they could be taken. Never silent."""

    async def withdraw(self, lost: Callable[[Delivery], bool], grace_seconds: float) -> None:
        """Forgets what `lost` names, what runs after the grace only. On return none of it will be settled."""

    def requests(self, route: Route) -> AbstractAsyncContextManager[Requests]:
        """The HTTP requests that match the route, while the context is open. Raises SourceError when it is taken."""

    def inbox(self) -> Inbox:
        """This trigger's durable queue, for events that are accepted before they are delivered."""

    async def shared(self, key: str, open: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]) -> T:
        """A connection that the triggers of this process share: opened by the first that asks, closed with the last."""
