"""The headers of NATS messages, with every byte and every repetition."""

from collections.abc import Mapping, Sequence
from typing import Any

from nats.aio.client import Client

from trigger_sources.encoding.header_text import bytes_of_header, header_text

_VERSION = b"NATS/1.0"


class MessageHeaders(dict[str, str]):
    """The last value of each name, as the client has it; `pairs` are all headers in their order."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


class LosslessClient(Client):  # type: ignore[misc]
    """The client, but for the subjects and headers of messages.

    The client replaces bytes of headers that are not UTF-8, and drops repeated headers. It stops reading at a message
    whose subject or headers it cannot read: one such message would stop all users of the connection.
    """

    @property
    def is_deaf(self) -> bool:
        """Whether it reads no more, though it is connected: an error that it did not expect ended its reading."""
        return self.is_connected and self._reading_task is not None and self._reading_task.done()

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Any:
        try:
            names = subject.decode(), reply.decode()
        except UnicodeDecodeError:
            names = header_text(subject), header_text(reply)
        return self.msg_class(subject=names[0], reply=names[1], data=data, headers=headers, _client=self, _sid=sid)

    async def _process_headers(self, headers: bytes | None) -> "MessageHeaders | None":
        if not headers:
            return None
        first, _, lines = headers.partition(b"\r\n")
        found = self._parse_header_lines(lines)
        status, _, description = first[len(_VERSION) :].strip().partition(b" ")
        if status.isdigit():  # a message of the server, such as `NATS/1.0 503 No Responders`
            found["Status"] = status.decode()
            found["Description"] = header_text(description)
        return found or None

    @staticmethod
    def _parse_header_lines(raw: bytes) -> MessageHeaders:
        pairs = []
        for line in raw.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            key = name.strip()
            if colon and key.isascii() and not any(c in b" \t\n\v\f\r" for c in key):
                pairs.append((key.decode(), header_text(value.strip())))
        return MessageHeaders(pairs)


def header_pairs(headers: Mapping[str, str] | None) -> Sequence[tuple[str, bytes]]:
    """All headers of a message, as bytes."""
    if not headers:
        return ()
    pairs = headers.pairs if isinstance(headers, MessageHeaders) else headers.items()
    return [(name, bytes_of_header(value)) for name, value in pairs]
