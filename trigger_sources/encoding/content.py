"""Reads an event's data by its content type, for filters and functions alike. Pure.

The Python runtime has the same rules in `kubeirq_runtime/event.py`; a property test compares the two.
"""

import codecs
import json
import re
from functools import lru_cache
from typing import Any

import orjson

CLOUDEVENTS = "application/cloudevents"
JSON = "application/json"
BYTES = "application/octet-stream"
# The types of events for a broker's plain messages. Their data is bytes where it is not the JSON that it was taken for.
BROKER_TYPES = frozenset({"dev.kubeirq.kafka.record", "dev.kubeirq.nats.message"})
_OBJECT, _LIST, _TEXT = b'{["'
_OBJECT_BEGINS = re.compile(rb'\{[ \t\r\n]*["}]')
_LIST_BEGINS = re.compile(rb'\[[ \t\r\n]*["{\]]')
_OBJECT_ENDS = frozenset(b"} \t\r\n")
_LIST_ENDS = frozenset(b"] \t\r\n")
_JSON_STARTS = frozenset(b'{["-0123456789tfn')
_JSON_ENDS = frozenset(b'}]"0123456789el \t\r\n')


# The text of others is UTF-8: Python knows codecs that are no charsets, and remembers each name that it is asked for
_CHARSET = re.compile(
    r";\s*charset\s*=\s*[\"']?((?:us-)?ascii|latin-?1|utf-?(?:8|16|32)(?:-?[lb]e)?|iso[-_]8859[-_]\d{1,2}|iso-2022-jp"
    r"|(?:windows-|cp)125\d|koi8-[ru]|shift[-_]jis|euc-(?:jp|kr)|gb(?:k|2312|18030)|big5)[\"']?\s*(?:;|$)",
    re.IGNORECASE | re.ASCII,
)


def media_of(content_type: str | None) -> str:
    """The media type without its parameters, in lower case; empty for no content type."""
    return (content_type or "").partition(";")[0].strip().lower()


@lru_cache(64)
def codec_of(content_type: str | None) -> str:
    """Python's name of the charset of text with this content type: UTF-8 if it names none, or one that is not known."""
    found = _CHARSET.search(content_type or "")
    try:
        return codecs.lookup(found[1]).name if found else "utf-8"
    except LookupError:
        return "utf-8"


def is_json(content_type: str | None) -> bool:
    """Whether data of this content type is JSON: `*/json` or `*/*+json`. Data without a content type is bytes."""
    return media_of(content_type).endswith(("/json", "+json"))


def is_claim(content_type: str | None) -> bool:
    """Whether a message with this content type says that it is a CloudEvent in structured or batch mode."""
    if content_type is None or content_type == JSON:  # most are, and this is asked for each call
        return False
    return content_type.lstrip()[: len(CLOUDEVENTS)].lower() == CLOUDEVENTS


def parsed_json(data: bytes) -> Any:
    """JSON as the runtime reads it: the standard library takes over when orjson refuses, such as for NaN.

    Raises ValueError.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as refused:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise refused from None


def guessed_content_type(data: bytes | None) -> str | None:
    """The content type of data that came without one, without the cost of parsing most of it.

    Data with the ends of a JSON object, or of a list of texts or objects, is called JSON; other data only if it parses.
    The guess binds nobody: see `BROKER_TYPES`.
    """
    if not data:
        return None
    first, last = data[0], data[-1]
    if first not in _JSON_STARTS or last not in _JSON_ENDS:
        return BYTES
    if first == _OBJECT and (data[1] == _TEXT or _OBJECT_BEGINS.match(data)):
        return JSON if last in _OBJECT_ENDS else BYTES
    if first == _OBJECT:
        return BYTES
    if first == _LIST and last in _LIST_ENDS and _LIST_BEGINS.match(data):
        return JSON
    try:
        parsed_json(data)
    except ValueError:
        return BYTES
    return JSON


def encoding_of(values: list[str]) -> str | None:
    """The encoding that these Content-Encoding headers name; None for none and for `identity`."""
    named = [word.strip() for value in values for word in value.split(",")]
    return ", ".join(word for word in named if word and word.lower() != "identity") or None


def viewed(data: bytes | None, content_type: str | None, encoding: str | None, event_type: str) -> Any:
    """The data as a function sees it: JSON parsed, text/* as text in its charset, None if it is empty, and else bytes.

    Raises ValueError for data that its content type calls JSON and that is not. A broker's plain message is bytes then.
    """
    if not data:
        return None
    if encoding:
        return data
    if is_json(content_type):
        try:
            return parsed_json(data)
        except ValueError:
            if event_type not in BROKER_TYPES:
                raise
            return data
    if media_of(content_type).startswith("text/"):
        return data.decode(codec_of(content_type), errors="replace")
    return data
