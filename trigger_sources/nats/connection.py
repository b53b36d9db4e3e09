"""One connection for each address and identity in the process, and JetStream's API over it."""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError, NoServersError

from trigger_sources.context import Context, SourceError
from trigger_sources.credentials import identity_of
from trigger_sources.nats.headers import LosslessClient
from trigger_sources.nats.refusals import NOT_ENABLED, words
from trigger_sources.nats.security import Security, client_arguments
from trigger_sources.transport.diagnosis import reasons_of

log = logging.getLogger(__name__)

INBOX = "_INBOX.kubeirq"  # of all answers: the chart's own server closes it for clients without a login
_CANCEL_SECONDS = 0.05
_CLOSE_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_PORT = 4222
_MESSAGE_ID = "Nats-Msg-Id"  # a stream drops a message whose id it has
_REQUEST_SECONDS = 5.0
_STALE_SECONDS = 60  # longer than the client keeps a connection that does not answer
_LOOK_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_HEADER_BYTES = len(": \r\n")
_HEADERS_BYTES = len("NATS/1.0\r\n\r\n")
_REFUSALS = ("authoriz", "authentication")  # authorization violation, user authentication expired or revoked, …

Callback = Callable[[Any], Awaitable[None]]
Arguments = Callable[[], Awaitable[Mapping[str, Any]]]


@dataclass(slots=True)
class _Publication:
    """Messages on their way to a stream: the number that is not confirmed yet, and the future of the confirmation."""

    left: int
    done: asyncio.Future[None]


class Subscription:
    """A subscription that outlives the client: when the connection replaces the client, it subscribes again."""

    def __init__(self, connection: "Connection", subject: str, queue: str, callback: Callback) -> None:
        self._connection = connection
        self._subject = subject
        self._queue = queue
        self._callback = callback
        self._current: Any = None
        self._ended = False

    async def start(self, client: Client) -> None:
        """Subscribes on this client. Only the connection calls it."""
        started = await client.subscribe(
            self._subject, queue=self._queue, cb=self._callback, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        if self._ended:
            await started.unsubscribe()
        else:
            self._current = started

    async def unsubscribe(self) -> None:
        """Ends it. Raises the client's errors; it has ended nevertheless."""
        self._end()
        await self._current.unsubscribe()

    async def drain(self) -> None:
        """Ends it once the messages on their way are here. Raises the client's errors."""
        self._end()
        await self._current.drain()

    def _end(self) -> None:
        self._ended = True
        self._connection.subscriptions.discard(self)


class Connection:
    """A NATS connection that comes back from anything, and that notifies listeners when it is lost and when it is back.

    The client reconnects by itself after a failure of the network or of the server. But it closes for good when the
    server reports an error, for example that the login has expired, and it repeats a refused login unchanged. In both
    cases the connection replaces the client: it reads the credentials again and renews the subscriptions.
    `unreachable` is the reason of the SourceError for a lost connection. `arguments` gives the client's arguments for
    authentication.
    """

    def __init__(
        self, servers: Sequence[str], name: str, *, unreachable: str = "NotConnected", arguments: Arguments
    ) -> None:
        self.client = LosslessClient()  # do not keep it: it may be replaced
        self.place = ", ".join(map(_without_password, servers))
        self.unreachable = unreachable
        self.listeners: set[Callable[[bool], None]] = set()
        self.refusal_listeners: set[Callable[[str], None]] = set()  # of subjects that the identity has no right to
        self.generation = 0  # counts reconnects: messages that were sent before one may be lost
        self.lost = self.away("the connection was lost")  # the reason of the loss, while the connection is lost
        self.subscriptions: set[Subscription] = set()
        self._servers = tuple(servers)
        self._name = name
        self._arguments = arguments
        self._refusal = ""  # the server's last permissions violation
        self._needs_look = asyncio.Event()
        self._login_refused = False  # since the client was lost
        self._keeper: asyncio.Task[None] | None = None
        self._replies = f"{INBOX}.{secrets.token_hex(8)}"
        self._listens = False
        self._published = 0
        self._publications: dict[str, _Publication] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Raises SourceError if no server accepts it within five seconds."""
        self.client = await self._login()
        self._keeper = asyncio.create_task(self._keep())

    @property
    def server_id(self) -> str:
        """The identity of the server's process. Empty while no server has answered."""
        return str(self.client._server_info.get("server_id", ""))

    async def close(self) -> None:
        """Closes it, without an error if it was lost before."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await _end(self.client)
        for task in self._under_way:
            task.cancel()  # the client reads nothing any more

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> Subscription:
        """Each message is passed to the callback until the subscription ends. Raises the client's errors."""
        subscription = Subscription(self, subject, queue, callback)
        client = self.client
        await subscription.start(client)
        if client is not self.client:
            await subscription.start(self.client)  # it was replaced meanwhile
        self.subscriptions.add(subscription)
        return subscription

    # --- the client's life

    async def _login(self) -> Client:
        """A new client that is connected. Raises SourceError if no server accepts it within five seconds."""
        arguments = await self._arguments()
        client = LosslessClient()
        last: Exception | None = None
        refused: Exception | None = None

        async def failed(error: Exception) -> None:
            nonlocal last, refused
            last = error
            if _is_refusal(error):
                refused = error
                if client is self.client:
                    self._login_refused = True
                    self._lose(self.refused(str(error)))
                    self._needs_look.set()
            if "permissions violation" in str(error).lower():
                self._refusal = str(error)
                for listener in list(self.refusal_listeners):
                    listener(self._refusal)

        async def gone() -> None:
            if client is self.client:
                self._lose(self.away("the connection was lost"))

        async def back() -> None:
            if client is self.client:
                self._is_back()

        async def closed() -> None:
            self._needs_look.set()

        try:
            connecting = client.connect(
                servers=list(self._servers),
                name=self._name,
                error_cb=failed,
                disconnected_cb=gone,
                reconnected_cb=back,
                closed_cb=closed,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,
                connect_timeout=2,
                ping_interval=10,
                max_outstanding_pings=2,
                skip_subject_validation=True,
                inbox_prefix=INBOX,
                **arguments,
            )
            await in_time(connecting, _CONNECT_SECONDS)
        except BaseException as error:
            await _end(client)
            if not isinstance(error, (NatsError, TimeoutError, OSError)):
                raise
            # A server that refuses a login closes the connection at once, and its message may be lost. The client
            # tries several times, so one of the attempts has usually got the message.
            reason = refused or last or error
            if _is_refusal(reason):
                raise self.refused(str(reason)) from error
            if isinstance(reason, (OSError, TimeoutError, NoServersError)):  # none names the host, or a cause
                raise self.away(await reasons_of(self._servers, _PORT, "a NATS server")) from error
            raise self.away(str(reason) or type(reason).__name__) from error
        return client

    async def _keep(self) -> None:
        """Replaces the client each time it has closed for good, and each time a server refuses its login."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):  # a client that closes does not always report it
                    await self._needs_look.wait()
            self._needs_look.clear()
            client = self.client
            if client.is_closed or client.is_deaf or (self._login_refused and not client.is_connected):
                await self._replace()

    async def _replace(self) -> None:
        """Returns once a new client is connected and subscribed. Pauses longer from attempt to attempt."""
        old, pause = self.client, _FIRST_PAUSE_SECONDS
        if (error := old.last_error) is not None and not self._login_refused:
            self._lose(self.refused(str(error)) if _is_refusal(error) else self.away(str(error)))
        await _end(old)
        log.warning("NATS client is replaced", extra={"servers": self.place, "problem": str(self.lost)})
        while True:
            try:
                client = await self._subscribed()
            except SourceError as problem:
                self._lose(problem)
            except Exception as error:  # credentials that cannot be read, for example
                log.warning("NATS client is not replaced", extra={"servers": self.place}, exc_info=True)
                self._lose(self.away(f"{type(error).__name__}: {error}"))
            else:
                break
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        self.client = client
        self._is_back()

    async def _subscribed(self) -> Client:
        """A new client that is connected, with all subscriptions."""
        client = await self._login()
        try:
            for subscription in list(self.subscriptions):
                await subscription.start(client)
        except BaseException as error:
            await _end(client)
            if isinstance(error, (NatsError, OSError)):
                raise self.away(str(error) or type(error).__name__) from error
            raise
        return client

    def _lose(self, problem: SourceError) -> None:
        self.lost = problem
        for publication in self._publications.values():
            _fail(publication, SourceError(self.unreachable, str(problem)))
        self._tell(False)

    def _is_back(self) -> None:
        self.generation += 1
        self._login_refused = False
        self._tell(True)

    def _tell(self, connected: bool) -> None:
        for listener in list(self.listeners):
            listener(connected)

    # --- requests and messages

    async def api(self, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """JetStream's answer. Raises JetStreamError if it is an error, SourceError if there is no answer."""
        body = orjson.dumps(request) if request is not None else b""
        subject = f"$JS.API.{subject}"
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        try:
            message = await self.client.request(subject, body, timeout=_REQUEST_SECONDS)
        except NoRespondersError as error:
            raise SourceError("NoJetStream", f"{self.place}: JetStream is not enabled on these servers") from error
        except (NatsError, TimeoutError, OSError) as error:
            raise self._silent(subject, error) from error
        if task.cancelling() > cancelling:
            raise asyncio.CancelledError  # `wait_for` of Python 3.11 forgets one that comes together with the answer
        answer: dict[str, Any] = orjson.loads(message.data)
        if "error" in answer:
            raise JetStreamError(answer["error"], subject.removeprefix("$JS.API."))
        return answer

    async def flush(self, timeout_seconds: float) -> None:
        """Returns once the server has all published messages. Raises TimeoutError, or the client's errors."""
        await self._undisturbed(self.client.flush(_STALE_SECONDS), timeout_seconds)

    async def drain(self, subscription: Any, timeout_seconds: float) -> None:
        """Ends a subscription once the messages on their way are here. Raises TimeoutError, or the client's errors."""
        await self._undisturbed(subscription.drain(), timeout_seconds)

    async def _undisturbed(self, work: Coroutine[Any, Any, None], timeout_seconds: float) -> None:
        """Waits for the work at most so long, and then lets it continue.

        If a flush is cancelled or times out and its answer comes later, the client stops reading, for all users of the
        connection.
        """
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        done, _ = await asyncio.wait({task}, timeout=timeout_seconds)
        if not done:
            raise TimeoutError("the server does not answer")
        task.result()

    async def publish(
        self, subject: str, bodies: Sequence[bytes], headers: Mapping[str, str] | None = None, batch: str = ""
    ) -> None:
        """Returns once the subject's stream has all of them, in this order.

        Raises JetStreamError, SourceError: then it may have some of them. A batch that is published again under the
        same name within the stream's window for duplicates is in it once.
        """
        if not bodies:
            return
        if not self._listens:
            self._listens = True
            await self.subscribe(f"{self._replies}.*", self._confirmed)
        self._published += 1
        reply = f"{self._replies}.{self._published}"
        publication = _Publication(len(bodies), asyncio.get_running_loop().create_future())
        self._publications[reply] = publication
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                for number, body in enumerate(bodies):
                    own = {**(headers or {}), **({_MESSAGE_ID: f"{batch}/{number}"} if batch else {})}
                    await self.client.publish(subject, body, reply=reply, headers=own or None)
                await publication.done
        except MaxPayloadError as error:
            largest = self.client.max_payload
            raise SourceError("TooLarge", f"{self.place}: takes at most {largest} bytes (max_payload)") from error
        except (NatsError, TimeoutError, OSError) as error:
            raise self._silent(subject, error) from error
        finally:
            del self._publications[reply]
            if not publication.done.cancel() and not publication.done.cancelled():
                publication.done.exception()  # retrieved, so that asyncio does not log it

    async def _confirmed(self, message: Any) -> None:
        publication = self._publications.get(message.subject)
        if publication is None:
            return
        if (message.headers or {}).get("Status") == "503":
            _fail(publication, SourceError("StreamMissing", f"{self.place}: no stream takes it"))
        elif "error" in (answer := orjson.loads(message.data)):
            _fail(publication, JetStreamError(answer["error"]))
        else:
            publication.left -= 1
            if publication.left == 0 and not publication.done.done():
                publication.done.set_result(None)

    def excess(self, data: bytes, headers: Mapping[str, str]) -> str:
        """Why the server does not take such a message, with both sizes; empty if it takes it.

        The server closes the connection of a client that sends a larger one. The client itself checks the data without
        the headers.
        """
        most: int = self.client.max_payload
        lines = sum(len(name.encode()) + len(value.encode()) + _HEADER_BYTES for name, value in headers.items())
        size = len(data) + lines + (_HEADERS_BYTES if headers else 0)
        return "" if size <= most else f"it has {size} bytes, and the server takes at most {most} (max_payload)"

    def _silent(self, subject: str, error: Exception) -> SourceError:
        """The error for an answer that did not come."""
        if f'"{subject}"'.lower() in self._refusal.lower():
            return self.refused(self._refusal)
        return self.away(f"JetStream does not answer: {str(error) or type(error).__name__}")

    def refused(self, problem: str) -> SourceError:
        return SourceError("Unauthorized", f"{self.place}: {problem}")

    def away(self, problem: str) -> SourceError:
        return SourceError(self.unreachable, f"{self.place}: {problem}")


def _fail(publication: _Publication, error: Exception) -> None:
    if not publication.done.done():
        publication.done.set_exception(error)


class JetStreamError(SourceError):
    """JetStream refused a request. `code` is its error code, `description` the server's words without a way out."""

    def __init__(self, error: Mapping[str, Any], path: str = "") -> None:
        """`path`: the request, such as STREAM.INFO.NAME."""
        self.code: int = error.get("err_code", 0)
        self.description = str(error.get("description", error))
        super().__init__("NoJetStream" if self.code in NOT_ENABLED else "JetStreamRefused", words(error, path))

    @property
    def not_found(self) -> bool:
        return self.code in (10014, 10059, 10037)  # consumer, stream, message


def servers_of(servers: Sequence[str], context: Context) -> list[str]:
    """The servers that the spec names, else the fabric's own. Raises SourceError if there are none."""
    found = list(servers) or list(context.defaults.get("nats", ()))
    if not found:
        raise SourceError("NoServers", "spec.servers: none is named, and the fabric has no default")
    return found


async def connection_to(servers: Sequence[str], security: Security | None, context: Context) -> Connection:
    """The process' connection to these servers with this identity. Raises SourceError, MissingSecret."""
    key = f"nats/{context.namespace}/{','.join(sorted(servers))}/{await identity_of(security, context)}"

    async def open_() -> Connection:
        async def arguments() -> Mapping[str, Any]:
            return await client_arguments(security, context)

        connection = Connection(servers, f"kubeirq-{context.replica}", arguments=arguments)
        await connection.open()
        return connection

    async def close(connection: Connection) -> None:
        await connection.close()

    return await context.shared(key, open_, close)


async def in_time(work: Coroutine[Any, Any, None], seconds: float) -> None:
    """Waits for it so long, then ends it and raises TimeoutError.

    The client uses `wait_for`, which in Python 3.11 forgets a cancellation that comes together with an answer: the
    client would try to connect for ever. So the work is cancelled until it ends.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
    if task.cancelled():
        raise TimeoutError
    task.result()


async def _end(client: Client) -> None:
    """Closes the client, which may have failed, and which forgets a cancellation while it closes."""
    try:
        await in_time(client.close(), _CLOSE_SECONDS)
    except Exception:
        log.debug("NATS client not closed in order", exc_info=True)
        if client._transport is not None:
            client._transport.close()  # the client closes its socket last


def _without_password(server: str) -> str:
    scheme, found, rest = server.rpartition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"


def _is_refusal(error: Exception) -> bool:
    text = str(error).lower()  # a permissions violation names a subject, which may have any word
    return "permissions violation" not in text and any(word in text for word in _REFUSALS)
