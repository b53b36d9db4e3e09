"""Notices about a place that was not where it should be: in the log, and for a while in the condition."""

import logging
import time
from collections.abc import Collection, Mapping

from aiokafka import TopicPartition

from trigger_sources.values import frozen

log = logging.getLogger(__name__)

_SHOWN_SECONDS = 3_600.0
_NAMED = 5


@frozen()
class Notice:
    """A CamelCase reason, and a message for a person."""

    reason: str
    message: str


@frozen()
class Moved:
    """Places that are not where they should be, as they are told once the group has accepted the new ones.

    `lost` records are counted as lost, for `reason`. `known_from`: the partitions whose memory says so.
    """

    notice: Notice
    lost: int = 0
    reason: str = ""
    known_from: Collection[TopicPartition] = ()


class Notices:
    """The newest notice stands in the condition `Connected`, whose status stays True."""

    def __init__(self) -> None:
        self._newest: Notice | None = None
        self._until = 0.0

    def add(self, notice: Notice) -> None:
        log.warning("place moved", extra={"reason": notice.reason, "problem": notice.message})
        self._newest = notice
        self._until = time.monotonic() + _SHOWN_SECONDS

    def text(self) -> tuple[str, str]:
        """The reason and the message; both empty if there is nothing to say."""
        if self._newest is None or time.monotonic() > self._until:
            return "", ""
        return self._newest.reason, self._newest.message


def recreated(offsets: Mapping[TopicPartition, int], lost: int = 0) -> Notice:
    topics = ", ".join(sorted({repr(tp.topic) for tp in offsets}))
    gone = f"; {lost} records of the old topic were taken and not settled, and are withdrawn" if lost else ""
    return Notice(
        "TopicRecreated",
        f"deleted and created again: topic {topics}{gone}; it is read from its beginning: {_places(offsets)}",
    )


def maybe_recreated(offsets: Mapping[TopicPartition, int]) -> Notice:
    topics = ", ".join(sorted({repr(tp.topic) for tp in offsets}))
    return Notice(
        "TopicMaybeRecreated",
        f"missing for a while: topic {topics}; the brokers give topics no ids, so if it was created again, records"
        f" before these offsets are not read: {_places(offsets)}; to read them, reset the group's offsets",
    )


def forgotten(offsets: Mapping[TopicPartition, int]) -> Notice:
    return Notice(
        "OffsetsForgotten",
        f"the brokers have forgotten the group's offsets of {len(offsets)} partitions;"
        f" they are read from the places that the trigger kept: {_places(offsets)}",
    )


def deleted(tp: TopicPartition, lost: int, beginning: int) -> Notice:
    """`lost` counts the offsets of all partitions since the source started; some may hold no record."""
    return Notice(
        "RecordsDeleted",
        f"up to {lost} records were deleted before they were read; reading goes on: {_places({tp: beginning})}",
    )


def compacted(tp: TopicPartition, lost: int, offset: int) -> Notice:
    return Notice(
        "RecordsCompacted",
        f"{tp.topic}/{tp.partition}: {lost} records that were taken and not settled, as in parked lanes, are gone from"
        f" the log, because newer records have their keys; the first one was {offset} or later. Compaction takes what"
        " waits for long, so let events of this topic become dead letters, and not park",
    )


def letters_passed(counts: Mapping[str, int]) -> Notice:
    """`counts` are the records that were passed since the source started, by topic."""
    topics = ", ".join(f"{topic!r} ({count})" for topic, count in sorted(counts.items()))
    return Notice(
        "DeadLettersPassed",
        f"spec.topicPattern matches topics with dead letters of kubeirq, which are no events and call no function:"
        f" {topics}; write a pattern that does not match these topics",
    )


def truncated(
    tp: TopicPartition,
    offset: int,
    end: int,
    lost: int,
    beginning: int,
    *,
    has_id: bool,
    is_exact: bool = False,
    is_told: bool = False,
) -> Notice:
    """`lost` counts the offsets that were known and not settled; some may hold no record.

    `has_id`: the topic's id shows that it is the same topic. `is_exact`: the records before `end` are the same, and
    there may be new ones from there on. `is_told`: the epochs of leaders tell of the cut, and not the log's end.
    """
    cause = "the brokers lost records" if has_id else "the brokers lost records, or the topic was created again"
    found = f"has other records, or none, from {end} on" if is_exact or is_told else f"ends at {end}"
    found += ", and maybe before" if is_told and not is_exact else ""
    goes_on = f"reading goes on at {beginning}" if is_exact else f"it is read again from its beginning, {beginning}"
    known = f"up to {lost} known ones were not delivered" if lost else "all known ones were delivered"
    return Notice(
        "Truncated",
        f"{tp.topic}/{tp.partition} {found}, and was read up to {offset}: {cause}; {known}, and"
        f" newer ones may be missing; {goes_on}",
    )


def _places(offsets: Mapping[TopicPartition, int]) -> str:
    named = [f"{tp.topic}/{tp.partition} from {offset}" for tp, offset in sorted(offsets.items())]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more
