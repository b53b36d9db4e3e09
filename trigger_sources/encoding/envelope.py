"""The members of a JSON envelope, with the data's own text where parsing would change a number. Pure."""

import json
import re
from typing import Any

import orjson

_DIGITS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte for byte in range(256))
_LONG_NUMBER = b"0" * 16  # a shorter one survives the parser
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")


class RawData:
    """The JSON text of a member, as it came."""

    __slots__ = ("text", "value")

    def __init__(self, text: bytes, value: Any) -> None:
        self.text = text
        self.value = value


def parsed_envelope(text: bytes) -> Any:
    """The parsed JSON. In an object with long numbers, `data` is RawData. Raises ValueError."""
    found = orjson.loads(text)
    if isinstance(found, dict) and "data" in found and _LONG_NUMBER in text.translate(_DIGITS):
        found["data"] = _raw_data(text.decode(), found["data"])
    return found


def parsed_batch(text: bytes) -> Any:
    """The parsed JSON. In an array of objects with long numbers, each `data` is RawData. Raises ValueError."""
    found = orjson.loads(text)
    if not isinstance(found, list) or _LONG_NUMBER not in text.translate(_DIGITS):
        return found
    return [parsed_envelope(item.encode()) for item in _items(text.decode())]


def _raw_data(text: str, value: Any) -> Any:
    """The last member `data`, which is the one that counts."""
    raw = None
    position = _after(text, text.index("{") + 1)
    while text[position] != "}":
        name, end = _DECODER.raw_decode(text, position)
        begin = _after(text, _after(text, end) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        if name == "data":
            raw = text[begin:end]
        position = _next(text, end)
    return value if raw is None else RawData(raw.encode(), value)


def _items(text: str) -> list[str]:
    found = []
    position = _after(text, text.index("[") + 1)
    while text[position] != "]":
        _, end = _DECODER.raw_decode(text, position)
        found.append(text[position:end])
        position = _next(text, end)
    return found


def _next(text: str, end: int) -> int:
    """The position of the next member, or of the closing bracket."""
    position = _after(text, end)
    return _after(text, position + 1) if text[position] == "," else position


def _after(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    assert match is not None
    return match.end()
