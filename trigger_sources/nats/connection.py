"""One connection for each address and identity in the process, and JetStream's API over it."""

import asyncio
import contextlib
import logging
import secrets
import ssl
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError
from pydantic import Field, model_validator

from trigger_sources.context import Context, SourceError
from trigger_sources.spec import SecretRef, Spec

log = logging.getLogger(__name__)

_CANCEL_SECONDS = 0.05
_CONNECT_SECONDS = 5.0
_REQUEST_SECONDS = 5.0
_STALE_SECONDS = 60  # longer than the client keeps a connection that does not answer


class Tls(Spec):
    """TLS to the servers. The system's authorities are trusted unless `ca` names others."""

    ca: SecretRef | None = Field(None, description="The PEM certificates to trust; unset: the system's")
    certificate: SecretRef | None = Field(None, description="The client's PEM certificate; it goes with key")
    key: SecretRef | None = Field(None, description="The PEM key of that certificate")

    @model_validator(mode="after")
    def _certificate_with_key(self) -> "Tls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class Security(Spec):
    """Absent: no authentication, and TLS if the address says so."""

    token: SecretRef | None = Field(None, description="A token")
    username: str | None = Field(None, description="A user; it goes with password")
    password: SecretRef | None = Field(None, description="That user's password")
    creds: SecretRef | None = Field(None, description="The text of a .creds file")
    nkey_seed: SecretRef | None = Field(None, description="The seed of an NKey")
    tls: Tls | None = Field(None, description="TLS to the servers; {} trusts the system's authorities")


@dataclass(slots=True)
class _Publication:
    """Messages on their way to a stream: the number that is not confirmed yet, and the future of the confirmation."""

    left: int
    done: asyncio.Future[None]


class Connection:
    """A NATS connection that always reconnects, and that notifies listeners when it is lost and when it is back.

    `unreachable` is the reason of the SourceError for a lost connection.
    """

    def __init__(self, client: Client, place: str, unreachable: str = "NotConnected") -> None:
        self.client = client
        self.place = place
        self.unreachable = unreachable
        self.listeners: set[Callable[[bool], None]] = set()
        self.generation = 0  # counts reconnects: messages that were sent before one may be lost
        self._refusal = ""  # the server's last permissions violation
        self._replies = f"_INBOX.kubeirq.{secrets.token_hex(8)}"
        self._listens = False
        self._published = 0
        self._publications: dict[str, _Publication] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Closes it, without an error if it was lost before."""
        with contextlib.suppress(NatsError, OSError):
            await self.client.close()
        for task in self._under_way:
            task.cancel()  # the client reads nothing any more

    async def _gone(self) -> None:
        for publication in self._publications.values():
            _fail(publication, self.away("the connection was lost"))
        self._tell(False)

    async def _back(self) -> None:
        self.generation += 1
        self._tell(True)

    def _tell(self, connected: bool) -> None:
        for listener in list(self.listeners):
            listener(connected)

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
            raise JetStreamError(answer["error"])
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

    async def publish(self, subject: str, bodies: Sequence[bytes], headers: Mapping[str, str] | None = None) -> None:
        """Returns once the subject's stream has all of them, in this order.

        Raises JetStreamError, SourceError: then it may have some of them.
        """
        if not bodies:
            return
        if not self._listens:
            self._listens = True
            await self.client.subscribe(
                f"{self._replies}.*", cb=self._confirmed, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        self._published += 1
        reply = f"{self._replies}.{self._published}"
        publication = _Publication(len(bodies), asyncio.get_running_loop().create_future())
        self._publications[reply] = publication
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                for body in bodies:
                    await self.client.publish(subject, body, reply=reply, headers=dict(headers) if headers else None)
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

    def _silent(self, subject: str, error: Exception) -> SourceError:
        """The error for an answer that did not come."""
        if f'"{subject}"'.lower() in self._refusal.lower():
            return SourceError("Unauthorized", f"{self.place}: {self._refusal}")
        return self.away(f"JetStream does not answer: {str(error) or type(error).__name__}")

    def away(self, problem: str) -> SourceError:
        return SourceError(self.unreachable, f"{self.place}: {problem}")


def _fail(publication: _Publication, error: Exception) -> None:
    if not publication.done.done():
        publication.done.set_exception(error)


class JetStreamError(SourceError):
    """JetStream refused a request. `code` is its error code."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__("JetStreamRefused", str(error.get("description", error)))
        self.code: int = error.get("err_code", 0)

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
    key = f"nats/{context.namespace}/{','.join(sorted(servers))}/{security!r}"

    async def open_() -> Connection:
        return await connect(servers, f"kubeirq-{context.replica}", **await _arguments(security, context))

    async def close(connection: Connection) -> None:
        await connection.close()

    return await context.shared(key, open_, close)


async def connect(
    servers: Sequence[str], name: str, *, unreachable: str = "NotConnected", **arguments: Any
) -> Connection:
    """A connection that is not shared. `arguments` are the client's, for authentication.

    Raises SourceError if no server accepts it within five seconds.
    """
    client = Client()
    connection = Connection(client, ", ".join(map(_without_password, servers)), unreachable)
    last: Exception | None = None
    refused: Exception | None = None

    async def failed(error: Exception) -> None:
        nonlocal last, refused
        last = error
        if _is_refusal(error):
            refused = error
        if "permissions violation" in str(error).lower():
            connection._refusal = str(error)

    try:
        connecting = client.connect(
            servers=list(servers),
            name=name,
            error_cb=failed,
            disconnected_cb=connection._gone,
            reconnected_cb=connection._back,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,
            connect_timeout=2,
            ping_interval=10,
            max_outstanding_pings=2,
            skip_subject_validation=True,
            **arguments,
        )
        await in_time(connecting, _CONNECT_SECONDS)
    except (NatsError, TimeoutError, OSError) as error:
        with contextlib.suppress(Exception):
            await client.close()
        # A server that refuses a login closes the connection at once, and its message may be lost. The client tries
        # several times, so one of the attempts has usually got the message.
        reason = refused or last or error
        word = "Unauthorized" if _is_refusal(reason) else unreachable
        raise SourceError(word, f"{connection.place}: {str(reason) or type(reason).__name__}") from error
    return connection


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


def _without_password(server: str) -> str:
    scheme, found, rest = server.rpartition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"


def _is_refusal(error: Exception) -> bool:
    return "authoriz" in str(error).lower()


async def _arguments(security: Security | None, context: Context) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if security is None:
        return found
    if security.token is not None:
        found["token"] = await context.secret(security.token)
    if security.username is not None:
        found["user"] = security.username
    if security.password is not None:
        found["password"] = await context.secret(security.password)
    if security.nkey_seed is not None:
        found["nkeys_seed_str"] = await context.secret(security.nkey_seed)
    if security.creds is not None:
        found["user_credentials"] = nats.aio.client.RawCredentials(await context.secret(security.creds))
    if security.tls is not None:
        tls = security.tls
        found["tls"] = ssl.create_default_context(cadata=await context.secret(tls.ca) if tls.ca else None)
        if tls.certificate is not None and tls.key is not None:
            # The standard library reads certificates from files only
            with tempfile.TemporaryDirectory() as folder:
                chain = Path(folder) / "chain.pem"
                chain.touch(mode=0o600)
                chain.write_text(f"{await context.secret(tls.certificate)}\n{await context.secret(tls.key)}\n")
                found["tls"].load_cert_chain(chain)
    return found
