"""The head of a request that is forwarded to a function. Pure."""

import json

from trigger_sources.delivery import HttpRequest
from trigger_sources.encoding.header_text import bytes_of_header
from trigger_sources.events import MOST_HEAD_BYTES

# The event's attributes and the connection to the function set these anew.
_OWN_HEADERS = frozenset(
    {
        "content-type", "content-encoding", "content-length", "host", "connection", "transfer-encoding", "traceparent",
        "tracestate", "expect",
    }
)  # fmt: skip
# The header lines of an event in structured mode: its content type, the attempt, and its trace context
_EVENT_BYTES = 1_024


def request_lines(request: HttpRequest) -> bytes:
    """The header lines of the request, without those that are the event's or this hop's.

    Raises ValueError for a header that would break the line.
    """
    lines = [
        f"{name}: {value}\r\n"
        for name, value in request.headers
        if not (name in _OWN_HEADERS or name.startswith(("ce-", "kubeirq-")))
    ]
    if request.path_parameters:
        lines.append(f"kubeirq-path-params: {json.dumps(dict(request.path_parameters), separators=(',', ':'))}\r\n")
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines):
        raise ValueError("a header with a line break")
    return bytes_of_header(text)


def problem_of_head(request: HttpRequest) -> str | None:
    """The reason why no function can get the request; None if one can."""
    size, most = len(request.target) + len(request_lines(request)), MOST_HEAD_BYTES - _EVENT_BYTES
    return None if size <= most else f"the target and the headers have {size} bytes; a function takes {most}"
