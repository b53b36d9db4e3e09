"""The headers of a broker's message, by their meaning, and as attributes of its event. Pure."""

from collections.abc import Mapping, Sequence

import orjson

from trigger_sources.encoding.attributes import is_value
from trigger_sources.encoding.content import encoding_of
from trigger_sources.encoding.header_text import header_text, text_without_surrogates
from trigger_sources.encoding.trace import trace_of

_NO_TRACE: Mapping[str, str] = {}


class MeaningOfHeaders:
    """The headers of a message, sorted by what they say. Names are in lower case.

    `others` are the headers that become attributes of a plain message. Of several content types, the last one counts.
    """

    __slots__ = ("content_type", "encoding", "others", "trace")

    def __init__(self, headers: Sequence[tuple[str, bytes | None]]) -> None:
        content_type: bytes | None = None
        encodings: list[str] = []
        trace: list[tuple[str, str]] = []
        self.others: list[tuple[str, bytes]] = []
        for name, value in headers:
            name, value = name.lower(), value or b""
            if name == "content-type":
                content_type = value
            elif name in ("traceparent", "tracestate"):
                trace.append((name, header_text(value)))
            else:
                if name == "content-encoding":
                    encodings.append(header_text(value))
                self.others.append((name, value))
        self.content_type = None if content_type is None else _printable(header_text(content_type))
        encoding = encoding_of(encodings) if encodings else None
        self.encoding = None if encoding is None else text_without_surrogates(encoding)
        self.trace = trace_of(trace) if trace else _NO_TRACE

    def has(self, name: str) -> bool:
        return any(found == name for found, _ in self.others)


def _printable(text: str) -> str:
    """The content type for all hops: HTTP takes no other characters."""
    text = text_without_surrogates(text)
    return text if text.isprintable() else "".join(c for c in text if c.isprintable())


def header_extensions(source: str, headers: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    """Each header as `<source>header<name>`, with the letters and digits of its name in lower case.

    A value that no attribute may have, such as one that is not UTF-8 or has a line break, is `<source>header<name>hex`.
    Where that keeps less than the message has, because two headers would be one attribute, a name has no such letters,
    or a text is hexadecimal, `<source>headersjson` is the list of all headers: `{"name": …, "value": …}`, or `hex` in
    place of `value`.
    """
    found: dict[str, str] = {}
    complete = True
    for name, value in headers:
        plain = name.lower()
        if not (plain.isascii() and plain.isalnum()):
            plain = "".join(c for c in plain if c.isascii() and c.isalnum())
        attribute = f"{source}header{plain}"
        try:
            text = value.decode()
        except UnicodeDecodeError:
            attribute, text = f"{attribute}hex", value.hex()
        else:
            if not is_value(text):
                attribute, text, complete = f"{attribute}hex", value.hex(), False
        complete = complete and bool(plain) and attribute not in found
        found[attribute] = text
    if not complete:
        found[f"{source}headersjson"] = orjson.dumps([_whole(name, value) for name, value in headers]).decode()
    return found


def _whole(name: str, value: bytes) -> dict[str, str]:
    name = name.encode(errors="replace").decode()
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {"name": name, "hex": value.hex()}
    # JSON escapes line breaks and tabs, but not every character that an attribute may not have
    return (
        {"name": name, "value": text} if is_value(orjson.dumps(text).decode()) else {"name": name, "hex": value.hex()}
    )
