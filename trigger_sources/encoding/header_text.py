"""The one rule for text in headers: UTF-8, and a byte that is not UTF-8 is kept as a lone surrogate. Pure.

The rule loses nothing: `bytes_of_header(header_text(value))` is `value`, for every value and on every hop. Attributes
of events are Unicode text without surrogates, because they travel in JSON too.
"""

import re
from urllib.parse import unquote_to_bytes

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def header_text(value: bytes) -> str:
    """The text of a header's value."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode(errors="surrogateescape")


def bytes_of_header(text: str) -> bytes:
    """The inverse of `header_text`. Raises ValueError for a text that is not of a header."""
    return text.encode(errors="surrogateescape")


def text_without_surrogates(text: str) -> str:
    """A header's text for an attribute. A value that is not UTF-8 is read as Latin-1, which older programs send."""
    if text.isascii():
        return text
    value = bytes_of_header(text)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def attribute_of(text: str) -> str:
    """The attribute in a `ce-` header of HTTP or NATS: unquoted, then percent-decoded once.

    Raises ValueError if it is not UTF-8 then.
    """
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = _ESCAPED.sub(r"\1", text[1:-1])
    if "%" not in text and text.isascii():
        return text
    try:
        return unquote_to_bytes(bytes_of_header(text)).decode()
    except UnicodeDecodeError:
        raise ValueError("the value is not UTF-8") from None
