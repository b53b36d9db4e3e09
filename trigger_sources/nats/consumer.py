"""The durable consumer of a trigger: its configuration, and the rule that nobody else's consumer is changed."""

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trigger_sources.context import SourceError
from trigger_sources.nats.connection import Connection, JetStreamError

log = logging.getLogger(__name__)

_ATTEMPTS = 5
_TRIGGER, _FUNCTION, _UID = "kubeirq.dev/trigger", "kubeirq.dev/function", "kubeirq.dev/uid"
_IDS = "kubeirq.dev/event-ids"
_METADATA_SINCE = (2, 10)  # older servers keep no metadata
_TOO_MANY_UNACKNOWLEDGED = 10121
_BEGINNING = ("deliver_policy", "opt_start_seq", "opt_start_time")
_WITHHOLDING = ("backoff", "headers_only", "priority_groups", "priority_policy", "priority_timeout")

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Owner:
    """The trigger and function that a consumer belongs to."""

    trigger: str  # with its namespace
    function: str
    uid: str

    def mark(self) -> dict[str, str]:
        """The consumer's metadata that names the owner."""
        return {_TRIGGER: self.trigger, _FUNCTION: self.function, _UID: self.uid}


async def consumer_info(connection: Connection, stream: str, consumer: str) -> dict[str, Any] | None:
    """The consumer's configuration and state; None if it or its stream is missing."""
    try:
        return await connection.api(f"CONSUMER.INFO.{stream}.{consumer}")
    except JetStreamError as error:
        if error.not_found:
            return None
        raise


async def consumer_of(connection: Connection, stream: str, owner: Owner) -> str | None:
    """The name of the consumer that has the owner's mark, whatever it is called; None if there is none."""
    offset = 0
    while True:  # the answer comes in pages
        answer = await connection.api(f"CONSUMER.LIST.{stream}", {"offset": offset})
        page = answer.get("consumers") or ()
        for info in page:
            if (info["config"].get("metadata") or {}).items() >= owner.mark().items():
                return str(info["name"])
        offset += len(page)
        if not page or offset >= answer.get("total", 0):
            return None


async def create_consumer(connection: Connection, stream: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Creates or updates the consumer. It holds as many unacknowledged messages as stream, account and server allow."""
    path = f"CONSUMER.CREATE.{stream}.{config['name']}"
    try:
        return await connection.api(path, {"stream_name": stream, "config": config})
    except JetStreamError as error:
        allowed = re.search(r"limit of (\d+)", error.description)
        if error.code != _TOO_MANY_UNACKNOWLEDGED or allowed is None:
            raise
        config = {**config, "max_ack_pending": int(allowed[1])}
        return await connection.api(path, {"stream_name": stream, "config": config})


async def create_missing(
    connection: Connection, stream: str, config: Mapping[str, Any], last_sequence: int
) -> dict[str, Any]:
    """Creates a consumer that does not exist, on a stream that ends at `last_sequence`. Raises SourceError.

    While the server still deletes a consumer of the same name, it may give the new one an old state of the former one
    (nats-server 2.15). Such a consumer is deleted and created again.
    """
    for _ in range(_ATTEMPTS):
        info = await create_consumer(connection, stream, config)
        if _is_new(info, min(config.get("opt_start_seq", 1), last_sequence + 1)):
            return info
        log.warning("consumer has an old state", extra={"stream": stream, "consumer": config["name"]})
        with contextlib.suppress(JetStreamError):
            await connection.api(f"CONSUMER.DELETE.{stream}.{config['name']}")
    raise SourceError("ConsumerNotNew", f"stream {stream}: the server creates {config['name']} with an old state")


def _is_new(info: Mapping[str, Any], first: int) -> bool:
    floor: int = info["ack_floor"]["stream_seq"]
    # Another replica, which waits for messages, may have got the first ones
    return floor >= first - 1 and (info["delivered"]["consumer_seq"] == 0 or info["num_waiting"] > 0)


def updated(found: Mapping[str, Any], wanted: Config) -> Config:
    """The configuration for an existing consumer. It keeps its place, and settings that the trigger does not make."""
    left_out = ("filter_subjects", "metadata", *_WITHHOLDING)
    kept = {name: value for name, value in found.items() if name not in left_out}
    metadata = {name: text for name, text in (found.get("metadata") or {}).items() if not name.startswith("_nats.")}
    config = {**kept, **wanted, "metadata": {**metadata, **wanted["metadata"]}}
    for name in _BEGINNING:
        config.pop(name, None)
        if name in found:
            config[name] = found[name]
    return config


def event_ids_of(info: Mapping[str, Any]) -> str | None:
    """The first part of the ids of events, if the consumer's stream replaced another one of the same name."""
    text: str | None = (info["config"].get("metadata") or {}).get(_IDS)
    return text


def with_event_ids(metadata: Mapping[str, str], ids: str) -> dict[str, str]:
    return {**metadata, _IDS: ids}


def is_marked(info: Mapping[str, Any]) -> bool:
    """Whether a trigger made the consumer, or took it over."""
    return _TRIGGER in (info["config"].get("metadata") or {})


def drifted(info: Mapping[str, Any], owner: Owner, subject: str) -> str:
    """The change that somebody made to the trigger's consumer, if it no longer serves the trigger. Pure."""
    uid = (info["config"].get("metadata") or {}).get(_UID, owner.uid)
    if uid != owner.uid:
        return "another trigger has taken it over"
    found = filter_of(info["config"])
    return "" if found == {subject} else f"somebody made it take {_text(found)}"


def is_of_another_function(info: Mapping[str, Any], owner: Owner) -> bool:
    """Whether the consumer belongs to the same trigger, for another one of its functions."""
    metadata = info["config"].get("metadata") or {}
    return metadata.get(_UID) == owner.uid and metadata.get(_FUNCTION) != owner.function


def pause_of(info: Mapping[str, Any]) -> str:
    """The message for a consumer that somebody paused. Empty if it is not paused."""
    if not info.get("paused"):
        return ""
    until = info["config"].get("pause_until", "later")
    return (
        f"somebody paused consumer {info['name']} of stream {info['stream_name']}: no message comes until {until};"
        f" nats consumer resume {info['stream_name']} {info['name']} ends the pause"
    )


def withheld(info: Mapping[str, Any], wanted: Config) -> str:
    """The first setting of the consumer by which the trigger misses messages or parts of them. Pure."""
    return next(_withheld(info["config"], wanted), "")


def _withheld(found: Mapping[str, Any], wanted: Config) -> Iterator[str]:
    for problem, is_so in (
        (f"its ack_policy is {found.get('ack_policy')}, not explicit", found.get("ack_policy") != "explicit"),
        ("its max_deliver lets the server drop messages", found.get("max_deliver", -1) > 0),
        ("its ack_wait is shorter than spec.ackWaitSeconds", found.get("ack_wait", 0) < wanted["ack_wait"]),
        ("its headers_only leaves out the data", bool(found.get("headers_only"))),
        ("its priority_groups keep messages from clients without a group", bool(found.get("priority_groups"))),
    ):
        if is_so:
            yield problem


def unsettled(info: Mapping[str, Any]) -> int:
    """The number of messages that the consumer has not settled."""
    found: int = info["num_pending"] + info["num_ack_pending"]
    return found


def keeps_metadata(connection: Connection) -> bool:
    version = connection.client.connected_server_version
    return (version.major, version.minor) >= _METADATA_SINCE


def may_write(
    info: Mapping[str, Any], wanted: Config, owner: Owner, *, chosen: bool, in_order: bool, taken_over: bool = False
) -> Literal["write", "use"]:
    """Whether the trigger may change an existing consumer, or uses it as it is. Pure.

    `chosen`: the spec names it, so that it may be somebody else's. `taken_over`: it was of the trigger's former
    function. Raises SourceError if the trigger cannot use it.
    """
    found = info["config"]
    metadata = found.get("metadata") or {}
    if _TRIGGER not in metadata:
        # Consumers that the fabric names are its own, also those of a version that made no marks
        made_so = all(found.get(name) == value for name, value in wanted.items() if name != "metadata") and not any(
            found.get(name) for name in _WITHHOLDING
        )
        if not chosen or (made_so and not found.get("deliver_subject")):
            return "write"
        return _use(info, wanted, in_order)
    same = (metadata.get(_TRIGGER), metadata.get(_FUNCTION)) == (owner.trigger, owner.function)
    if (same or taken_over) and metadata.get(_UID) == owner.uid:
        return "write"
    theirs = f"trigger {metadata[_TRIGGER]}" + ("" if same else f" with function {metadata.get(_FUNCTION, '?')}")
    if not same and filter_of(found) != filter_of(wanted):
        raise _taken(info, f"it belongs to {theirs} and takes {_text(filter_of(found))}")
    if info.get("num_waiting"):
        raise _taken(info, f"it belongs to {theirs}, which uses it now")
    return "write"  # that trigger was deleted, or no longer names it: this one continues at its place


def _use(info: Mapping[str, Any], wanted: Config, in_order: bool) -> Literal["use"]:
    """Checks that a consumer of another program does what the trigger promises."""
    found = info["config"]
    taken = filter_of(found)
    for problem in (
        f"it takes {_text(taken)}, not {wanted['filter_subject']!r}" if taken != filter_of(wanted) else "",
        "it pushes its messages" if found.get("deliver_subject") else "",
        withheld(info, wanted),
        "spec.ordering needs a consumer that only this trigger changes" if in_order else "",
    ):
        if problem:
            raise _taken(info, f"the fabric did not make it, and {problem}")
    return "use"


def filter_of(config: Mapping[str, Any]) -> frozenset[str]:
    """The patterns of the subjects that a consumer with this configuration takes."""
    single = config.get("filter_subject")
    return frozenset([single] if single else config.get("filter_subjects") or [">"])


def _text(subjects: frozenset[str]) -> str:
    return ", ".join(map(repr, sorted(subjects)))


def _taken(info: Mapping[str, Any], problem: str) -> SourceError:
    return SourceError(
        "Taken",
        f"spec.durable: consumer {info['name']} of stream {info['stream_name']}: {problem}:"
        " choose another spec.durable, or delete the consumer",
    )
