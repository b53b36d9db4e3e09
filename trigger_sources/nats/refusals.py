"""The ways out of a refusal of JetStream, by the server's error code. Pure."""

from collections.abc import Mapping
from typing import Any

NOT_ENABLED = frozenset({10035, 10039, 10076})  # the account or the server has no JetStream

_ANOTHER_CONSUMER = (
    "another consumer takes these messages, and each message of a work queue goes to one only: `nats consumer ls"
    " {stream}` shows it; name it in spec.durable, or delete it (`nats consumer rm {stream} NAME`), or narrow"
    " spec.subject to what it leaves"
)
_STORAGE = (
    "`nats account info` shows what is used: delete messages or streams (`nats stream purge NAME`), or raise the limits"
    " of the account, or max_file_store and max_memory_store of the server"
)
_MAX_BYTES = "create the stream yourself, with a bound that the account allows: `nats stream add --max-bytes SIZE`"
_LATER = "it is tried again by itself; `nats server report jetstream` shows whether the servers have a leader"
_WAYS_OUT: Mapping[int, str] = {
    10002: _STORAGE,
    10004: _LATER,
    10005: "`nats server ls` shows the servers that are there: a stream cannot have more replicas than servers",
    10007: _LATER,
    10008: _LATER,
    10009: _LATER,
    10013: "another consumer has this name: choose another spec.durable, or `nats consumer rm {stream} NAME`",
    10023: _STORAGE,
    10026: "delete a consumer that nobody needs (`nats consumer ls {stream}`, `nats consumer rm {stream} NAME`), or"
    " raise max_consumers of the stream or of the account",
    10027: "delete a stream that nobody needs (`nats stream ls`, `nats stream rm NAME`), or raise max_streams of the"
    " account",
    10028: _STORAGE,
    10035: "enable JetStream for the account of this login, or set spec.mode to core",
    10039: "enable JetStream for the account of this login, or set spec.mode to core",
    10047: _STORAGE,
    10058: "a stream of that name has other settings: `nats stream info {stream}` shows them; name it in spec.stream,"
    " or narrow spec.subject",
    10065: "`nats stream ls --subject SUBJECT` shows the stream that has a part of them: name it in spec.stream, or"
    " narrow spec.subject",
    10074: "servers without a cluster keep one copy of a stream: set the number of replicas to 1",
    10076: "enable JetStream on the servers (`jetstream {{}}` in their configuration), or set spec.mode to core",
    10077: "the stream takes nothing more: `nats stream info {stream}` shows its limits and their discard policy; raise"
    " a limit (`nats stream edit {stream}`), or delete messages",
    10093: "the stream has nothing of spec.subject: correct it, or add it (`nats stream edit {stream} --subjects`)",
    10099: _ANOTHER_CONSUMER,
    10100: _ANOTHER_CONSUMER,
    10101: "each message of a work queue is delivered: leave out spec.start",
    10109: "a sealed stream takes no message and no change: read it with spec.stream, and write to another one",
    10113: _MAX_BYTES,
    10118: _LATER,
    10119: _LATER,
    10122: _MAX_BYTES,
}
_BY_TEXT = (  # of errors that share a code
    (
        "push consumer",
        "the consumer pushes its messages, and a trigger asks for them: choose another spec.durable, or delete the"
        " consumer (`nats consumer rm {stream} NAME`), which makes it anew",
    ),
    ("maximum messages", "raise max_msgs of the stream (`nats stream edit {stream}`), or delete messages"),
    ("maximum bytes", "raise max_bytes of the stream (`nats stream edit {stream}`), or delete messages"),
    ("mirror", "a mirror takes its messages from its origin only: write to the origin, and leave the mirror as it is"),
)


def way_out(code: int, description: str, stream: str) -> str:
    """The advice for an error of JetStream; empty where the server's words have to do. `stream` may be unknown."""
    by_text = next((advice for part, advice in _BY_TEXT if part in description.lower()), "")
    return (by_text or _WAYS_OUT.get(code, "")).format(stream=stream or "STREAM")


def stream_in(path: str) -> str:
    """The stream that a request of the API names, such as CONSUMER.CREATE.STREAM.NAME; empty if it names none."""
    parts = path.split(".")
    at = {"STREAM": 2, "CONSUMER": 2}.get(parts[0], len(parts))
    if parts[:2] == ["CONSUMER", "DURABLE"] or parts[1:2] in (["MSG"], ["LEADER"], ["PEER"]):
        at = 3
    return parts[at] if at < len(parts) else ""


def words(error: Mapping[str, Any], path: str) -> str:
    """The text for a person: the stream, the server's words, and the way out."""
    code, description = int(error.get("err_code", 0)), str(error.get("description", error))
    stream = stream_in(path)
    advice = way_out(code, description, stream)
    return f"{f'stream {stream}: ' if stream and advice else ''}{description}{': ' if advice else ''}{advice}"
