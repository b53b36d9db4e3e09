"""The fabric's own store on a cluster: dead letters and inboxes in two streams of JetStream servers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats

from trigger_sources.context import SourceError
from trigger_sources.inbox import STORE_AWAY
from trigger_sources.nats.connection import Connection
from trigger_sources.nats.dead_letters import StreamDeadLetters
from trigger_sources.stores.jetstream_inbox import JetStreamInbox

log = logging.getLogger(__name__)

DEAD_LETTERS = "kubeirq-dead-letters"
INBOX = "kubeirq-inbox"
ACK_WAIT_SECONDS = 30.0


class JetStreamStore:
    """A `host.EventStore`. It connects on its first use, and reconnects by itself.

    While the servers cannot be reached, every method raises SourceError with the reason StoreUnavailable, at once if
    that is known already.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        replica: str,
        credentials: str = "",
        replicas: int = 1,
        may_take: Callable[[str], bool] = lambda uid: True,
        ack_wait_seconds: float = ACK_WAIT_SECONDS,
    ) -> None:
        self._servers = tuple(servers)
        self._name = f"kubeirq-{replica}-store"
        self._credentials = credentials
        self._replicas = replicas
        self._may_take = may_take
        self._ack_wait = ack_wait_seconds
        self._connected: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._inboxes: dict[str, JetStreamInbox] = {}
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(cls, servers: Sequence[str], **arguments: Any) -> AsyncIterator["JetStreamStore"]:
        """`servers` are nats:// or tls:// addresses.

        `replica` is the name of this process, `credentials` the text of a .creds file, `replicas` the number of servers
        that keep each stream. This process takes from a trigger's inbox only while `may_take(uid)` is true.
        """
        store = cls(servers, **arguments)
        try:
            yield store
        finally:
            await store._close()

    def dead_letters(self, uid: str, function: str) -> StreamDeadLetters:
        return StreamDeadLetters(self.connection, DEAD_LETTERS, uid, function, {"num_replicas": self._replicas})

    def inbox(self, uid: str) -> JetStreamInbox:
        """Always the same object for the same trigger."""
        if uid not in self._inboxes:
            self._inboxes[uid] = JetStreamInbox(
                self.connection,
                uid,
                stream=INBOX,
                replicas=self._replicas,
                ack_wait_seconds=self._ack_wait,
                may_take=lambda: self._may_take(uid),
            )
        return self._inboxes[uid]

    async def connection(self) -> Connection:
        """The connection. Raises SourceError while there is none."""
        if self._closed:
            raise SourceError("StoreClosed", "the store is closed")
        found = self._connected
        if found is None:
            found = self._connected = await self._connect()
        if not found.client.is_connected:
            raise SourceError(STORE_AWAY, f"the fabric's store: {found.lost}; it reconnects by itself")
        return found

    async def _connect(self) -> Connection:
        """One attempt for all callers that ask at the same time."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._opened())
            self._connecting.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(self._connecting)
        except SourceError as error:
            raise SourceError(STORE_AWAY, f"the fabric's store: {error}") from error

    async def _opened(self) -> Connection:
        async def arguments() -> Mapping[str, Any]:
            text = self._credentials
            return {"user_credentials": nats.aio.client.RawCredentials(text)} if text else {}

        connection = Connection(self._servers, self._name, unreachable=STORE_AWAY, arguments=arguments)
        await connection.open()
        return connection

    async def _close(self) -> None:
        self._closed = True
        for inbox in self._inboxes.values():
            await inbox.give_back()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
            if not self._connecting.cancelled() and self._connecting.exception() is None:
                await self._connecting.result().close()
