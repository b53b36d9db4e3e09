"""The rules for a CloudEvent's attributes. Pure."""

import re
from collections.abc import Mapping
from datetime import date


class InvalidEvent(ValueError):
    """A producer's fault: the message claims to be a CloudEvent and is not. The error text names the attribute."""


_NONCHARACTERS = "".join(f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(17))
_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII
)
_URI_REFERENCE = re.compile(r'([^\x00-\x20"<>\\^`{|}%]|%[0-9A-Fa-f]{2})+')
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")
_LARGEST_INTEGER = 2**31 - 1
_NO_NAMES = frozenset({"data"})


def check_attributes(attributes: Mapping[str, str]) -> None:
    """Raises InvalidEvent for a value that CloudEvents does not allow. It is for producers' claims, not stored events.

    A URI may have characters that are not ASCII, since many producers do not encode them.
    """
    if _FORBIDDEN.search("".join(attributes.values())):
        for name, value in attributes.items():
            if _FORBIDDEN.search(value):
                raise InvalidEvent(f"{name}: it has a control character, or one that is not a character")
    if not _URI_REFERENCE.fullmatch(attributes["source"]):
        raise InvalidEvent("source: a URI reference is needed, without spaces")
    time = attributes.get("time")
    if time is not None and not _is_time(time):
        raise InvalidEvent("time: an RFC 3339 time is needed, such as 2026-01-31T12:00:00Z")
    schema = attributes.get("dataschema")
    if schema is not None and not (_URI_REFERENCE.fullmatch(schema) and _SCHEME.match(schema)):
        raise InvalidEvent("dataschema: a URI with its scheme is needed")
    for name in ("subject", "datacontenttype"):
        if attributes.get(name) == "":
            raise InvalidEvent(f"{name}: it is empty; leave it out")
    for name in _NO_NAMES & attributes.keys():
        raise InvalidEvent(f"{name!r}: no attribute has this name")


def is_value(text: str) -> bool:
    """Whether an attribute may have this text: without control characters, among others."""
    return text.isprintable() or not _FORBIDDEN.search(text)


def key_extension(key: bytes) -> tuple[str, str]:
    """Name and value of the extension for an event's key: `partitionkeyhex` for a key that no attribute can have."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return "partitionkeyhex", key.hex()
    if is_value(text):
        return "partitionkey", text
    return "partitionkeyhex", key.hex()


def attribute_from_json(name: str, value: object, *, is_core: bool) -> str:
    """The canonical text of an attribute in a JSON envelope. Raises InvalidEvent."""
    if isinstance(value, str):
        return value
    if is_core:
        raise InvalidEvent(f"{name}: a text is needed")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if not -_LARGEST_INTEGER - 1 <= value <= _LARGEST_INTEGER:
            raise InvalidEvent(f"{name}: an integer has 32 bits; write a larger one as a text")
        return str(value)
    raise InvalidEvent(f"{name}: an attribute is a text, an integer or a boolean")


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        return False
    return True
