"""Reads an event's data by its content type, for filters and functions alike. Pure.

The Python runtime has the same rules in `kubeirq_runtime/event.py`; a property test compares the two.
"""

import json
from typing import Any

import orjson

CLOUDEVENTS = "application/cloudevents"
JSON = "application/json"
BYTES = "application/octet-stream"
_JSON_STARTS = frozenset(b'{["-0123456789tfn')
_JSON_ENDS = frozenset(b'}]"0123456789el \t\r\n')


def media_of(content_type: str | None) -> str:
    """The media type without its parameters, in lower case; empty for no content type."""
    return (content_type or "").partition(";")[0].strip().lower()


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
    """The content type of data that came without one: JSON only if it parses, so that the guess binds nobody."""
    if not data:
        return None
    if data[0] in _JSON_STARTS and data[-1] in _JSON_ENDS:
        try:
            parsed_json(data)
        except ValueError:
            return BYTES
        return JSON
    return BYTES


def encoding_of(values: list[str]) -> str | None:
    """The encoding that these Content-Encoding headers name; None for none and for `identity`."""
    named = [word.strip() for value in values for word in value.split(",")]
    return ", ".join(word for word in named if word and word.lower() != "identity") or None


def viewed(data: bytes | None, content_type: str | None, encoding: str | None = None) -> Any:
    """The data as a function sees it: JSON parsed, text/* as text, None if it is empty, and else bytes.

    Raises ValueError for data that its content type calls JSON and that is not.
    """
    if not data:
        return None
    if encoding:
        return data
    if is_json(content_type):
        return parsed_json(data)
    if media_of(content_type).startswith("text/"):
        return data.decode(errors="replace")
    return data
