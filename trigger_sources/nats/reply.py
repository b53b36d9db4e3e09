"""Replies to a NATS subject: confirmed by the stream that has it, or flushed to the server where none has."""

from collections.abc import Sequence

import orjson
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError

from trigger_sources.dispatch.replies import ReplyRefused
from trigger_sources.events import Event
from trigger_sources.nats.connection import Connection, Security, connection_to, servers_of
from trigger_sources.nats.events import headers_from_event
from trigger_sources.source import Context
from trigger_sources.spec import NATSReply

_SECONDS = 5.0


async def open_publisher(reply: NATSReply, context: Context, servers: Sequence[str]) -> "NATSPublisher":
    """`servers` are the trigger's own, for a reply that names none. Raises SourceError, MissingSecret."""
    security = Security.model_validate(reply.security) if reply.security else None
    addresses = servers_of(list(reply.servers) or list(servers), context)
    return NATSPublisher(await connection_to(addresses, security, context), reply.subject)


class NATSPublisher:
    """Publishes to one subject in the CloudEvents NATS binding's binary mode."""

    def __init__(self, connection: Connection, subject: str) -> None:
        self._connection = connection
        self._subject = subject

    async def publish(self, event: Event, key: bytes | None) -> None:
        client = self._connection.client
        # Printed once for all attempts: a stream drops what it has already
        headers = {**headers_from_event(event), "Nats-Msg-Id": event.id}
        streams = (
            await self._connection.api("STREAM.NAMES", {"subject": self._subject}) if await self._has_streams() else {}
        )
        try:
            if streams.get("streams"):
                answer = await client.request(self._subject, event.data or b"", timeout=_SECONDS, headers=headers)
                confirmed = orjson.loads(answer.data)
                if "error" in confirmed:
                    raise OSError(f"reply to {self._subject!r}: {confirmed['error'].get('description')}")
            else:
                await client.publish(self._subject, event.data or b"", headers=headers)
                await self._connection.flush(_SECONDS)
        except MaxPayloadError as error:
            raise ReplyRefused(f"reply to {self._subject!r}: larger than the server takes") from error
        except NoRespondersError as error:
            raise OSError(f"reply to {self._subject!r}: no stream answers") from error
        except NatsError as error:
            raise OSError(f"reply to {self._subject!r}: {str(error) or type(error).__name__}") from error

    async def _has_streams(self) -> bool:
        from trigger_sources.source import SourceError

        try:
            await self._connection.api("INFO")
        except SourceError as error:
            if error.reason == "NoJetStream":
                return False
            raise
        return True

    async def close(self) -> None:
        """The connection is shared: it is closed with its last owner."""
