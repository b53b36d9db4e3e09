"""The headers of NATS messages, with every byte and every repetition."""

from collections.abc import Mapping, Sequence

from nats.aio.client import Client

from trigger_sources.encoding.header_text import bytes_of_header, header_text


class MessageHeaders(dict[str, str]):
    """The last value of each name, as the client has it; `pairs` are all headers in their order."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


class LosslessClient(Client):  # type: ignore[misc]
    """The client, but for its parser of headers, which replaces bytes that are not UTF-8 and drops repeated headers."""

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
