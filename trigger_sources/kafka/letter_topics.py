"""The dead letters in topics that a pattern matches: they are no events.

The names of such topics do not tell: a topic may have been another trigger's `deadLetter.name`, or this one's former
one. Two triggers that read each other's letters as events would write new ones without end.
"""

from collections.abc import Sequence
from typing import Any

from trigger_sources.kafka.dead_letters import METADATA_HEADER
from trigger_sources.kafka.notices import Notice, letters_passed

_MARK = b'"triggerUid"'


class LetterTopics:
    """Those where a dead letter was seen. There, a record without a value removes a letter, and is no event either."""

    def __init__(self) -> None:
        self._passed: dict[str, int] = {}
        self._told = 0

    def events(self, topic: str, records: Sequence[Any]) -> Sequence[Any]:
        """The records that are events, in their order."""
        if topic not in self._passed and not any(map(is_letter, records)):
            return records
        events = []
        self._passed.setdefault(topic, 0)
        for record in records:
            if record.value is None or is_letter(record):
                self._passed[topic] += 1
            else:
                events.append(record)
        return events

    def notice(self) -> Notice | None:
        """The news to tell, if there is at least twice as much as before."""
        count = sum(self._passed.values())
        if count < max(1, 2 * self._told):
            return None
        self._told = count
        return letters_passed(self._passed)


def is_letter(record: Any) -> bool:
    return any(name == METADATA_HEADER and _MARK in (value or b"") for name, value in record.headers)
