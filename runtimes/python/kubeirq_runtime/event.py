"""The event that a request carries."""

import base64
from urllib.parse import unquote

from . import json_text


class BadRequest(Exception):
    """The caller's fault."""

    status = 400


class Event(dict):
    """Kubeless' event. Its key `cloudevent` has the attributes and raw bytes of the CloudEvent, parsed on first use."""

    __slots__ = ("_attributes", "_request")

    def __missing__(self, name):
        if name != "cloudevent":
            raise KeyError(name)
        request = self._request
        attributes = self._attributes
        if attributes is None:
            attributes = _binary_attributes(request._headers)
        found = self["cloudevent"] = {"attributes": attributes, "data": request.body}
        return found

    def get(self, name, default=None):
        return self[name] if name == "cloudevent" else dict.get(self, name, default)

    def __contains__(self, name):
        return name == "cloudevent" or dict.__contains__(self, name)


def event_from(request, kubeless=False):
    """The event of a CloudEvent in binary or structured mode, of Kubeless' headers, or of a plain request.

    Raises BadRequest when the request says that it is JSON or a CloudEvent and it is not.
    """
    headers = request._headers
    get = headers.get
    content_type = get("content-type", "")
    event = Event()
    event._request = request
    event._attributes = None
    if content_type != "application/json" and content_type.lower().startswith("application/cloudevents+json"):
        event["data"], event._attributes = _structured(request.body)
        get = event._attributes.get
        prefix = ""
    else:
        event["data"] = _data(request.body, content_type, kubeless)
        prefix = "ce-" if "ce-id" in headers else "event-"
    if prefix == "event-":
        event["event-id"] = get("event-id")
        event["event-type"] = get("event-type")
        event["event-time"] = get("event-time")
        event["event-namespace"] = get("event-namespace")
    else:
        event["event-id"] = _unescaped(get(prefix + "id"))
        event["event-type"] = _unescaped(get(prefix + "type"))
        event["event-time"] = get(prefix + "time")
        event["event-namespace"] = _unescaped(get(prefix + "source"))
    event["extensions"] = {"request": request}
    return event


def _structured(body):
    """Data and attributes of a CloudEvent whose body is one JSON object."""
    envelope = _json(body)
    if not isinstance(envelope, dict):
        raise BadRequest("the CloudEvent is not a JSON object")
    attributes = {name: value for name, value in envelope.items() if name not in ("data", "data_base64")}
    if "data_base64" not in envelope:
        return envelope.get("data"), attributes
    try:
        return base64.b64decode(envelope["data_base64"], validate=True), attributes
    except (TypeError, ValueError):
        raise BadRequest("the CloudEvent's data_base64 is not base64") from None


def _binary_attributes(headers):
    found = {name[3:]: _unescaped(value) for name, value in headers.items() if name.startswith("ce-")}
    if "content-type" in headers:
        found["datacontenttype"] = headers["content-type"]
    return found


def _data(body, content_type, kubeless):
    """JSON parsed, text/* as text, None for an empty body, and else bytes. Kubeless knows only JSON and bytes."""
    if not body:
        return b"" if kubeless else None
    if content_type == "application/json":
        return _json(body)
    media = content_type.partition(";")[0].strip().lower()
    if media in ("application/json", "text/json") or media.endswith("+json"):
        return _json(body)
    if media.startswith("text/") and not kubeless:
        return body.decode(errors="replace")
    return body


def _json(body):
    try:
        return json_text.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def _unescaped(value):
    return unquote(value) if isinstance(value, str) and "%" in value else value
