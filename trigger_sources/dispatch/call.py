"""The request that calls a function with an event. Pure."""

from trigger_sources.delivery import Delivery
from trigger_sources.events import MOST_HEAD_BYTES, http_message, structured_message
from trigger_sources.request_head import request_lines


def call_of(delivery: Delivery, attempt: int, path: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Method, target, header lines and body: the event in HTTP binary mode, with the number of the attempt.

    An event that came as an HTTP request goes on as that request, so that the function sees its method, path, query and
    headers. Raises ValueError for a header that would break the line.
    """
    event, request = delivery.event, delivery.request
    headers, body = http_message(event)
    if request is None:
        return b"POST", path, b"%bkubeirq-attempt: %d\r\n" % (headers, attempt), body
    lines = request_lines(request)
    if len(lines) + len(headers) > MOST_HEAD_BYTES:
        headers, body = structured_message(event)
    headers = b"%bkubeirq-attempt: %d\r\n%b" % (headers, attempt, lines)
    return request.method.encode("latin-1"), request.target.encode("latin-1"), headers, body
