"""Replies to a NATS subject: confirmed by the subject's stream, or flushed to the server if there is no stream."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from pydantic import Field, field_validator

from trigger_sources.context import Context, SourceError
from trigger_sources.events import Event
from trigger_sources.nats.connection import Connection, connection_to, servers_of
from trigger_sources.nats.events import message_from_event
from trigger_sources.nats.security import Security
from trigger_sources.nats.subjects import checked_subject
from trigger_sources.publisher import ReplyRefused, ReplyTarget
from trigger_sources.spec import Servers

_SECONDS = 5.0
_TOO_LARGE = {  # by JetStream's code: another try cannot succeed
    10054: "the stream's max_msg_size is smaller",
    10097: "a stream takes 64 KiB of headers",
}


class NATSReply(ReplyTarget):
    """Publishes the function's answer to a NATS subject."""

    subject: str = Field(min_length=1, description="The subject to publish to")
    servers: Servers = Field(
        default_factory=list, description="The servers' addresses; unset: the trigger's own, else the fabric's default"
    )
    security: Security | None = Field(None, description="The fields of a NATSTrigger's security")

    @field_validator("subject")
    @classmethod
    def _is_a_subject(cls, value: str) -> str:
        return checked_subject(value, wildcards=False)

    @property
    def addresses(self) -> Mapping[str, Sequence[str]]:
        return {"nats": self.servers}

    async def open(self, context: Context, addresses: Mapping[str, Sequence[str]]) -> "NATSPublisher":
        servers = servers_of(list(self.servers) or list(addresses.get("nats", ())), context)
        return NATSPublisher(await connection_to(servers, self.security, context), self.subject)


class NATSPublisher:
    """Publishes to one subject, in the binary mode of the CloudEvents NATS binding."""

    def __init__(self, connection: Connection, subject: str) -> None:
        self._connection = connection
        self._subject = subject

    async def publish(self, event: Event, key: bytes | None) -> None:
        await self.publish_once(event, key, secrets.token_hex(16))

    async def publish_once(self, event: Event, key: bytes | None, identity: str) -> None:
        headers, data = message_from_event(event)
        # A stream drops a message whose id it has, on any of its subjects. So the id names the delivery and the
        # subject: a function may return the event that it got, and other sources may use the same event id.
        headers["Nats-Msg-Id"] = hashlib.sha256(f"{identity} {self._subject}".encode()).hexdigest()[:32]
        if excess := self._connection.excess(data, headers):
            raise ReplyRefused(f"reply to {self._subject!r}: {excess}")
        streams = (
            await self._connection.api("STREAM.NAMES", {"subject": self._subject}) if await self._has_streams() else {}
        )
        client, generation = self._connection.client, self._connection.generation
        try:
            if streams.get("streams"):
                await self._confirmed(client, streams["streams"], data, headers)
            else:
                await self._flushed(client, data, headers)
                if self._connection.generation != generation:
                    raise OSError(f"reply to {self._subject!r}: the connection was lost meanwhile")
        except NoRespondersError as error:
            raise OSError(f"reply to {self._subject!r}: no stream answers") from error
        except NatsError as error:
            raise OSError(f"reply to {self._subject!r}: {str(error) or type(error).__name__}") from error

    async def _confirmed(self, client: Client, streams: Sequence[str], data: bytes, headers: Mapping[str, str]) -> None:
        """Returns once the stream has the message."""
        try:
            answer = await client.request(self._subject, data, timeout=_SECONDS, headers=headers)
        except NatsTimeoutError:
            if all([await self._confirms(name) for name in streams]):
                raise
            return  # the server answered after the message, so the stream has it
        error = orjson.loads(answer.data).get("error")
        if error is not None:
            problem = f"reply to {self._subject!r}: {error.get('description')}"
            if error.get("err_code") in _TOO_LARGE:
                raise ReplyRefused(f"{problem}: {_TOO_LARGE[error['err_code']]}")
            raise OSError(problem)

    async def _flushed(self, client: Client, data: bytes, headers: Mapping[str, str]) -> None:
        """Returns once the server has the message, which no stream takes."""
        refusals: list[str] = []
        self._connection.refusal_listeners.add(refusals.append)
        try:
            await client.publish(self._subject, data, headers=headers)
            await self._connection.flush(_SECONDS)  # a refusal comes before the answer
        finally:
            self._connection.refusal_listeners.discard(refusals.append)
        if any(f'publish to "{self._subject}"'.lower() in problem.lower() for problem in refusals):
            raise OSError(f"reply to {self._subject!r}: {refusals[-1]}")

    async def _confirms(self, stream: str) -> bool:
        return not (await self._connection.api(f"STREAM.INFO.{stream}"))["config"].get("no_ack", False)

    async def _has_streams(self) -> bool:
        try:
            await self._connection.api("INFO")
        except SourceError as error:
            if error.reason == "NoJetStream":
                return False
            raise
        return True

    async def close(self) -> None:
        """The connection is shared: it closes with its last user."""
