"""The services that the fabric offers to a source, and the errors that a source raises. Part of the plugin API."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from trigger_sources.delivery import Delivery
from trigger_sources.http_requests import Requests, Route
from trigger_sources.inbox import Inbox
from trigger_sources.spec import SecretRef

T = TypeVar("T")


class SourceError(Exception):
    """A source cannot continue: its configuration is wrong, or its broker fails.

    `reason` is a CamelCase word for a condition.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class MissingSecret(SourceError):
    """A SecretRef names a Secret or a key that does not exist. The message names it."""

    def __init__(self, message: str) -> None:
        super().__init__("SecretMissing", message)


class State(Protocol):
    """A small durable key-value store, for cursors. Writes are coalesced: `put` returns once the value is durable."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes) -> None: ...

    async def delete(self, key: str) -> None: ...


class Context(Protocol):
    """The fabric's services for one trigger and function."""

    namespace: str
    name: str  # of the trigger
    uid: str
    function: str  # the function's name, or the URL's host for a plain URL
    replica: str  # the name of this process, stable while it lives
    draining: asyncio.Event  # set when the flow begins to stop: pull no more; what was taken still settles
    stopping: asyncio.Event  # set when the trigger stops; events that a read still brings are settled as `returned`
    defaults: Mapping[str, Sequence[str]]  # addresses for a spec that names none, by kind: "kafka", "nats"
    own_servers: Collection[str]  # the kinds whose default addresses are the fabric's own servers, not somebody else's

    @property
    def state(self) -> State:
        """The state of this trigger and function. A function that replaces the trigger's only one takes it over."""

    @property
    def limit(self) -> int:
        """The largest number of deliveries that may be held, that is taken and not settled."""

    @property
    def room(self) -> int:
        """The number of deliveries that the source may yield now."""

    @property
    def read_ahead_bytes(self) -> int:
        """The bytes that the source may have read and not yielded yet. It is an equal share of what all triggers may.

        It changes as triggers come and go, so ask before each read.
        """

    async def secret(self, reference: SecretRef) -> str:
        """The secret's text. Raises MissingSecret."""

    def report(self, *, connected: bool, reason: str = "", message: str = "") -> None:
        """Reports whether the source is connected, for conditions, metrics and logs. Cheap: only a change is logged."""

    def report_lost(self, count: int, reason: str) -> None:
        """Reports events that were lost at the source, for example by retention, before they could be taken."""

    def report_refused(self, count: int) -> None:
        """Reports requests whose events it could not take. Their senders were told so, and may send them again."""

    async def withdraw(self, lost: Callable[[Delivery], bool], grace_seconds: float) -> None:
        """Forgets the deliveries that `lost` accepts. Calls that are running get the grace to end.

        After the return, none of these deliveries is settled.
        """

    def start_only_while(self, may_start: Callable[[], bool]) -> Callable[[], None]:
        """Starts events only while `may_start()` is true. It is asked before each call, and must be cheap.

        Returns a function that makes the fabric ask again, for when the answer changes to true.
        """

    def requests(self, route: Route) -> AbstractAsyncContextManager[Requests]:
        """The HTTP requests that match the route, while the context is open.

        Raises SourceError when another trigger has the route.
        """

    def inbox(self) -> Inbox:
        """This trigger's durable queue, for events that are accepted before they are delivered."""

    async def shared(self, key: str, open: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]) -> T:
        """A connection that the triggers of this process share: the first user opens it, the last one closes it."""
