"""The surroundings that a process gives to its flows: store, gateway, secrets, shared connections."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from trigger_sources.budget import Budget
from trigger_sources.context import State
from trigger_sources.dead_letters import DeadLetters
from trigger_sources.dispatch.former_target import Decision, Former
from trigger_sources.dispatch.loop_time import LoopTime
from trigger_sources.http_requests import Requests, Route
from trigger_sources.inbox import Inbox
from trigger_sources.memory_limit import memory_limit
from trigger_sources.spec import SecretRef
from trigger_sources.transport.egress_policy import Reach

log = logging.getLogger(__name__)
T = TypeVar("T")


class EventStore(Protocol):
    """Where the fabric keeps events that no broker of the trigger's own keeps."""

    def dead_letters(self, uid: str, function: str) -> DeadLetters:
        """The dead letters of that trigger and function."""

    def inbox(self, uid: str) -> Inbox:
        """The durable queue of that trigger, always the same object."""


class FabricStore(EventStore, Protocol):
    """The fabric's own store. Asking for a part of it costs nothing; using it may raise SourceError."""

    def state(self, uid: str, function: str) -> State:
        """The small durable state of that trigger and function."""

    async def hand_over(self, uid: str, function: str, decide: Decision) -> Former:
        """Gives the state of the trigger's former function to `function`, which loses its own; all in one write.

        Notes `function` as the target if other functions have state. Returns what `decide` answered.
        """


class HttpGateway(Protocol):
    """The HTTP server that triggers share."""

    def requests(
        self,
        uid: str,
        route: Route,
        *,
        flow: int = 0,
        supersedes: bool = False,
        refused: Callable[[int], None] | None = None,
    ) -> AbstractAsyncContextManager[Requests]:
        """The requests of that route, for the trigger with that uid, while the context is open.

        `flow` is the number of the trigger's flow. If it supersedes the trigger's earlier flows, their routes end at
        the moment at which this one begins. `refused` hears how many requests the gateway refused because the trigger
        did not take them. Raises SourceError when another trigger has the route.
        """

    async def serve_late_requests(self, most_seconds: float = 10.0) -> None:
        """Serves requests until none came for a moment. Call this first where clients learn late that it closes."""

    def hold(self, uid: str, routes: Sequence[Route]) -> None:
        """Keeps these routes for the trigger with that uid: while it does not serve them, callers get a 503."""

    async def until_taken(self, uid: str, flow: int) -> None:
        """Returns once that flow of the trigger has taken all requests that came before its routes were superseded."""

    async def close(self, grace_seconds: float = 10.0) -> None:
        """Refuses further requests, waits up to the grace for those that are under way, and stops listening."""


class Host(Protocol):
    """The machine or cluster around the flows of one process."""

    replica: str  # this process, unlike any other that may share the work
    defaults: Mapping[str, Sequence[str]]  # addresses where a spec names none: "kafka", "nats"
    own_servers: Collection[str]  # the kinds whose default addresses are the fabric's own servers
    store: FabricStore
    gateway: HttpGateway
    reach: Reach | None  # the addresses that triggers may call; None: all, on a machine that is one person's
    memory: Budget  # for the events that all triggers hold
    loop_time: LoopTime  # for the filters of all triggers

    async def secret(self, namespace: str, reference: SecretRef) -> str:
        """The secret's text. Raises MissingSecret."""

    async def shared(
        self, owner: str, key: str, open: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]
    ) -> T:
        """The connection of that key, opened by the first owner that asks."""

    async def release(self, owner: str) -> None:
        """The owner is done. Connections without another owner are closed."""


def events_memory(memory_limit: int) -> Budget:
    """The budget for held events in a process that may use so many bytes.

    It is a quarter of them. Sources read ahead another eighth, and the rest is for the process itself, for the events
    under way, and for a read that brings more than expected.
    """
    return Budget(memory_limit // 4)


class Shared:
    """Connections by key, each open while someone owns it."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[asyncio.Future[Any], Callable[[Any], Awaitable[None]], set[str]]] = {}

    async def get(
        self, owner: str, key: str, open: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]
    ) -> T:
        while (found := self._open.get(key)) is not None:
            future, _, owners = found
            owners.add(owner)
            try:
                value: T = await asyncio.shield(future)
            except asyncio.CancelledError:
                if not future.cancelled():
                    raise  # this caller was cancelled, not the one that opens
            else:
                return value
        future = asyncio.get_running_loop().create_future()
        self._open[key] = (future, close, {owner})
        try:
            value = await open()
        except BaseException as error:
            del self._open[key]
            if isinstance(error, Exception):
                future.set_exception(error)
                future.exception()  # the callers that wait get it; there need not be any
            else:
                future.cancel()
            raise
        future.set_result(value)
        return value

    async def release(self, owner: str) -> None:
        for key, (future, close, owners) in list(self._open.items()):
            owners.discard(owner)
            if owners or not future.done():
                continue
            self._open.pop(key, None)
            try:
                await close(future.result())
            except Exception:
                log.exception("shared connection not closed", extra={"kind": key.partition("/")[0]})


class LocalHost:
    """One machine: secrets from a function, addresses of its own brokers, one store and one gateway."""

    def __init__(
        self,
        *,
        replica: str,
        store: FabricStore,
        gateway: HttpGateway,
        secrets: Callable[[str, SecretRef], str],
        defaults: Mapping[str, Sequence[str]],
        own_servers: Collection[str] = (),
        reach: Reach | None = None,
        memory: Budget | None = None,
    ) -> None:
        self.replica = replica
        self.store = store
        self.gateway = gateway
        self.defaults = defaults
        self.own_servers = own_servers
        self.reach = reach
        self.memory = memory or events_memory(memory_limit())
        self.loop_time = LoopTime()
        self._secrets = secrets
        self._shared = Shared()

    async def secret(self, namespace: str, reference: SecretRef) -> str:
        return self._secrets(namespace, reference)

    async def shared(
        self, owner: str, key: str, open: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]
    ) -> T:
        return await self._shared.get(owner, key, open, close)

    async def release(self, owner: str) -> None:
        await self._shared.release(owner)
