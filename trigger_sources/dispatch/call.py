"""The request that calls a function with an event. Pure."""

import orjson

from trigger_sources.delivery import Delivery, HttpRequest
from trigger_sources.events import binary_headers

# Headers that come from the event's own attributes, or belong to this hop
_OWN_HEADERS = frozenset(
    {"content-type", "content-length", "host", "connection", "transfer-encoding", "traceparent", "tracestate", "expect"}
)


def call_of(delivery: Delivery, attempt: int, path: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, target and header lines: the event in HTTP binary mode, with the number of the attempt.

    An event that came as an HTTP request goes on as that request, so that the function sees its method, path, query and
    headers. Raises ValueError for a header that would break the line.
    """
    headers = binary_headers(delivery.event) + b"kubeirq-attempt: %d\r\n" % attempt
    request = delivery.request
    if request is None:
        return b"POST", path, headers
    return request.method.encode("latin-1"), request.target.encode("latin-1"), headers + _request_headers(request)


def _request_headers(request: HttpRequest) -> bytes:
    """The header lines of the request that the event came as, but those that are the event's or this hop's."""
    lines = [
        f"{name}: {value}\r\n"
        for name, value in request.headers
        if not (name in _OWN_HEADERS or name.startswith(("ce-", "kubeirq-")))
    ]
    if request.path_parameters:
        lines.append(f"kubeirq-path-params: {orjson.dumps(dict(request.path_parameters)).decode()}\r\n")
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines):
        raise ValueError("a header with a line break")
    return text.encode("utf-8")
