"""The headers of an HTTP request in JSON: in stored events and dead letters. Pure.

JSON has no text for a byte that is not UTF-8. A value with such bytes is stored readable, and once more as it was in
`rawHeaders`, which earlier versions do not read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trigger_sources.encoding.header_text import bytes_of_header, header_text


def stored_headers(headers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The members of a JSON object that keep the headers."""
    values = [bytes_of_header(value) for _, value in headers]
    found: dict[str, Any] = {
        "headers": [[name, value.decode(errors="replace")] for (name, _), value in zip(headers, values, strict=True)]
    }
    raw = {str(index): value.hex() for index, value in enumerate(values) if not _is_text(value)}
    if raw:
        found["rawHeaders"] = raw
    return found


def headers_from_stored(found: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The inverse. Raises KeyError, TypeError, ValueError."""
    raw: Mapping[str, str] = found.get("rawHeaders") or {}
    return tuple(
        (name, header_text(bytes.fromhex(raw[str(index)])) if str(index) in raw else value)
        for index, (name, value) in enumerate(found["headers"])
    )


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
