"""The event that a request carries."""

import base64
import codecs
import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from . import json_text

# The types of events for a broker's plain messages. Their data is bytes where it is not the JSON that it was taken for.
BROKER_TYPES = ("dev.kubeirq.kafka.record", "dev.kubeirq.nats.message")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_CHARSET = re.compile(  # the text of others is UTF-8
    r";\s*charset\s*=\s*[\"']?((?:us-)?ascii|latin-?1|utf-?(?:8|16|32)(?:-?[lb]e)?|iso[-_]8859[-_]\d{1,2}|iso-2022-jp"
    r"|(?:windows-|cp)125\d|koi8-[ru]|shift[-_]jis|euc-(?:jp|kr)|gb(?:k|2312|18030)|big5)[\"']?\s*(?:;|$)",
    re.IGNORECASE | re.ASCII,
)


class BadRequest(Exception):
    """The caller's fault."""

    status = 400


class Event(dict):
    """Kubeless' event. Its key `cloudevent` has the attributes and raw bytes of the CloudEvent, parsed on first use."""

    __slots__ = ("_attributes", "_raw", "_request")

    def __missing__(self, name):
        if name != "cloudevent":
            raise KeyError(name)
        request = self._request
        attributes = self._attributes
        if attributes is None:
            attributes = _binary_attributes(request._headers)
        raw = self._raw
        if raw is None:  # the part of a structured event that is its data
            raw = json_text.dumps(json_text.loads(request.body)["data"])
        found = self["cloudevent"] = {"attributes": attributes, "data": raw}
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
    event._raw = request.body
    if content_type != "application/json" and _media(content_type) == "application/cloudevents+json":
        event["data"], event._raw, event._attributes = _structured(request.body, kubeless)
        get = event._attributes.get
        event["event-id"] = get("id")
        event["event-type"] = get("type")
        event["event-time"] = get("time")
        event["event-namespace"] = get("source")
    else:
        encoded = "content-encoding" in headers and is_encoded(headers["content-encoding"])
        try:
            event["data"] = _data(request.body, content_type, kubeless, encoded)
        except BadRequest:
            if get("ce-type") not in BROKER_TYPES:
                raise
            event["data"] = request.body
        if "ce-id" in headers:
            event["event-id"] = _unescaped(get("ce-id"))
            event["event-type"] = _unescaped(get("ce-type"))
            event["event-time"] = _unescaped(get("ce-time"))
            event["event-namespace"] = _unescaped(get("ce-source"))
        else:
            event["event-id"] = get("event-id")
            event["event-type"] = get("event-type")
            event["event-time"] = get("event-time")
            event["event-namespace"] = get("event-namespace")
    event["extensions"] = {"request": request}
    return event


def is_encoded(content_encoding):
    """Whether the header names an encoding, such as gzip. The data is then bytes, whatever its content type."""
    return any(word.strip().lower() not in ("", "identity") for word in content_encoding.split(","))


def _media(content_type):
    return content_type.partition(";")[0].strip().lower()


def _structured(body, kubeless):
    """Data, raw data and attributes of a CloudEvent whose body is one JSON object. None: the raw data is a JSON value.

    The data is the same as if the event had come in binary mode.
    """
    envelope = _json(body)
    if not isinstance(envelope, dict):
        raise BadRequest("the CloudEvent is not a JSON object")
    attributes = {name: value for name, value in envelope.items() if name not in ("data", "data_base64")}
    content_type = attributes.get("datacontenttype")
    if content_type is not None and not isinstance(content_type, str):
        raise BadRequest("the CloudEvent's datacontenttype is not a text")
    if "data_base64" in envelope:
        try:
            raw = base64.b64decode(envelope["data_base64"], validate=True)
        except (TypeError, ValueError):
            raise BadRequest("the CloudEvent's data_base64 is not base64") from None
        encoded = is_encoded(str(attributes.get("contentencoding", "")))
        try:
            return _data(raw, content_type or "", kubeless, encoded), raw, attributes
        except BadRequest:
            if attributes.get("type") not in BROKER_TYPES:
                raise
            return raw, raw, attributes
    if "data" not in envelope:
        return _data(b"", "", kubeless, False), b"", attributes
    value = envelope["data"]
    if content_type is None or _is_json(_media(content_type)):
        return value, None, attributes
    if isinstance(value, str):
        is_text = _media(content_type).startswith("text/")
        raw = value.encode(_codec(content_type) if is_text else "utf-8", errors="replace")
    else:
        raw = b"" if value is None else json_text.dumps(value)
    return _data(raw, content_type, kubeless, False), raw, attributes


def _binary_attributes(headers):
    found = {name[3:]: _unescaped(value) for name, value in headers.items() if name.startswith("ce-")}
    if "content-type" in headers:
        found["datacontenttype"] = headers["content-type"]
    return found


def _data(body, content_type, kubeless, encoded):
    """JSON parsed, text/* as text in its charset, None for an empty body, and else bytes. Kubeless knows no text."""
    if not body:
        return b"" if kubeless else None
    if encoded:
        return body
    if content_type == "application/json":
        return _json(body)
    media = _media(content_type)
    if _is_json(media):
        return _json(body)
    if media.startswith("text/") and not kubeless:
        return body.decode(_codec(content_type), errors="replace")
    return body


@lru_cache(64)
def _codec(content_type):
    """Python's name of the charset that the content type names: UTF-8 if it names none, or one that is not known."""
    found = _CHARSET.search(content_type)
    try:
        return codecs.lookup(found[1]).name if found else "utf-8"
    except LookupError:
        return "utf-8"


def _is_json(media):
    return media.endswith(("/json", "+json"))


def _json(body):
    try:
        return json_text.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def _unescaped(value):
    """The attribute in a `ce-` header: unquoted, then percent-decoded once."""
    if not isinstance(value, str):
        return value
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    if "%" not in value and value.isascii():
        return value
    try:
        return unquote_to_bytes(value.encode(errors="surrogateescape")).decode()
    except UnicodeDecodeError:
        raise BadRequest("an attribute of the CloudEvent is not UTF-8") from None
