"""The HTTP answer that a handler's result stands for."""

import re

from . import json_text

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"
BYTES_TYPE = "application/octet-stream"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Control characters, and surrogates that do not stand for a byte of a header that came in
_NOT_IN_A_HEADER_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udc7f\udd00-\udfff]")


class BadAnswer(Exception):
    """The handler returned a value that is not an answer. Its text goes on from "the handler returned"."""


def answer_from(result, kubeless=False):
    """(status, headers as pairs, content type, body or iterator) of a handler's result. Raises BadAnswer."""
    status, headers = 200, ()
    if isinstance(result, tuple):
        if len(result) not in (2, 3):
            raise BadAnswer(f"a tuple of {len(result)}; (body, status) or (body, status, headers) is an answer")
        result, status, *rest = result
        headers = _pairs(rest[0]) if rest else ()
    elif hasattr(result, "status_code") and hasattr(result, "body"):
        status, headers, result = result.status_code, _pairs(getattr(result, "headers", None) or {}), result.body
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise BadAnswer(f"the status {status!r}; a status is a number from 200 to 599")
    if result is None:
        return (200 if kubeless and status == 200 else 204 if status == 200 else status), headers, None, b""
    if isinstance(result, (dict, list)):
        try:
            return int(status), headers, JSON_TYPE, json_text.dumps(result)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadAnswer(f"a {type(result).__name__} that cannot be JSON: {error}") from None
    if isinstance(result, str):
        return int(status), headers, TEXT_TYPE, result.encode(errors="replace")
    if isinstance(result, (bytes, bytearray, memoryview)):
        return int(status), headers, BYTES_TYPE, bytes(result)
    if hasattr(result, "__next__") or hasattr(result, "__anext__"):
        return int(status), headers, TEXT_TYPE, result
    kinds = "bytes, str, dict, list, None, a tuple or a generator"
    raise BadAnswer(f"a {type(result).__name__}; an answer is {kinds}")


def _pairs(headers):
    """Headers as pairs with lower-case names. Raises BadAnswer for a header that could be read as more than one."""
    pairs = []
    try:
        for name, value in headers.items() if hasattr(headers, "items") else headers:
            name, value = str(name), str(value)
            if not _HEADER_NAME.fullmatch(name) or _NOT_IN_A_HEADER_VALUE.search(value):
                raise BadAnswer(f"{name!r}: a header's name or value with a character that would break the answer")
            pairs.append((name.lower(), value))
    except (TypeError, ValueError):
        raise BadAnswer(f"headers that are a {type(headers).__name__}; a dict or pairs are headers") from None
    return pairs
