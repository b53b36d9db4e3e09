"""The dead letters in topics that a pattern matches: they are no events.

The names of such topics do not tell: a topic may have been another trigger's `deadLetter.name`, or this one's former
one. Two triggers that read each other's letters as events would write new ones without end.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from trigger_sources.kafka.dead_letters import METADATA_HEADER
from trigger_sources.kafka.notices import Notice, letters_passed

_MARK = b'"triggerUid"'


class LetterTopics:
    """Counts them by topic. A record without a value that removes a letter is no event either.

    Such a removal has the header of a letter. kubeirq 0.1.0 wrote it without that header. A removal by 0.1.0 is known
    by its key, which begins with the uid of a trigger that has a letter in the topic. Any other record without a value
    is an event.
    """

    def __init__(self) -> None:
        self._passed: dict[str, int] = {}
        self._prefixes: dict[str, set[bytes]] = {}
        self._told = 0

    def events(self, topic: str, records: Sequence[Any]) -> Sequence[Any]:
        """The records that are events, in their order."""
        if topic not in self._passed and not any(map(is_letter, records)):
            return records
        self._passed.setdefault(topic, 0)
        prefixes, events = self._prefixes.setdefault(topic, set()), []
        for record in records:
            if is_letter(record):
                prefixes |= _prefixes_of(record)
            elif record.value is not None or not (record.key or b"").startswith(tuple(prefixes)):
                events.append(record)
                continue
            self._passed[topic] += 1
        return events

    def notice(self) -> Notice | None:
        """The news to tell, if there is at least twice as much as before."""
        count = sum(self._passed.values())
        if count < max(1, 2 * self._told):
            return None
        self._told = count
        return letters_passed(self._passed)


def is_letter(record: Any) -> bool:
    """Whether it is a letter, or removes one."""
    return any(name == METADATA_HEADER and _MARK in (value or b"") for name, value in record.headers)


def _prefixes_of(letter: Any) -> set[bytes]:
    """The beginning of the keys of this trigger's letters."""
    try:
        return {orjson.loads(dict(letter.headers)[METADATA_HEADER])["triggerUid"].encode() + b"/"}
    except (ValueError, TypeError, KeyError, AttributeError):
        return set()
