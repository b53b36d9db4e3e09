"""The members of a JSON envelope, with the data's own text where writing it anew would change it, or fail. Pure."""

import json
import re
from typing import Any

import orjson

from trigger_sources.encoding.content import parsed_json

_DIGITS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte for byte in range(256))
_LONG_NUMBER = b"0" * 16  # a shorter one survives the parser
_MOST_BRACKETS = 250  # orjson writes 254 levels; it reads more
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")


class RawData:
    """The JSON text of a member, as it came."""

    __slots__ = ("text", "value")

    def __init__(self, text: bytes, value: Any) -> None:
        self.text = text
        self.value = value


def parsed_envelope(text: bytes) -> Any:
    """The parsed JSON. In an object, `data` may be RawData. Raises ValueError."""
    found, is_exact = _read(text)
    if isinstance(found, dict) and "data" in found and not is_exact:
        found["data"] = _raw_data(_unicode(text), found["data"])
    return found


def parsed_batch(text: bytes) -> Any:
    """The parsed JSON. In an array of objects, each `data` may be RawData. Raises ValueError."""
    found, is_exact = _read(text)
    if not isinstance(found, list) or is_exact:
        return found
    return [parsed_envelope(item.encode()) for item in _items(_unicode(text))]


def _read(text: bytes) -> tuple[Any, bool]:
    """The parsed JSON, and whether it has only values that are the same when they are written anew."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return parsed_json(text), False  # 1e400 or half of a character, for example
    return found, _LONG_NUMBER not in text.translate(_DIGITS) and _can_be_written(text, found)


def _can_be_written(text: bytes, found: Any) -> bool:
    if text.count(b"[") + text.count(b"{") <= _MOST_BRACKETS:
        return True
    try:
        orjson.dumps(found)
    except TypeError:
        return False
    return True


def _unicode(text: bytes) -> str:
    return text.decode(json.detect_encoding(text), "surrogatepass")


def _raw_data(text: str, value: Any) -> Any:
    """The last member `data`, which is the one that counts."""
    raw = None
    position = _after(text, text.index("{") + 1)
    while text[position] != "}":
        name, end = _DECODER.raw_decode(text, position)
        begin = _after(text, _after(text, end) + 1)
        end = _end_of_value(text, begin)
        if name == "data":
            raw = text[begin:end]
        position = _next(text, end)
    return value if raw is None else RawData(raw.encode(), value)


def _items(text: str) -> list[str]:
    found = []
    position = _after(text, text.index("[") + 1)
    while text[position] != "]":
        end = _end_of_value(text, position)
        found.append(text[position:end])
        position = _next(text, end)
    return found


def _end_of_value(text: str, position: int) -> int:
    try:
        return _DECODER.raw_decode(text, position)[1]
    except RecursionError:
        raise ValueError("it has too many levels") from None


def _next(text: str, end: int) -> int:
    """The position of the next member, or of the closing bracket."""
    position = _after(text, end)
    return _after(text, position + 1) if text[position] == "," else position


def _after(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    assert match is not None
    return match.end()
