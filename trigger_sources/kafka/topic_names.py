"""The topics that a trigger reads, where they are not a list of which each exists."""

from collections.abc import Collection
from typing import Any, Protocol

from trigger_sources.patterns import TenantPattern

_OWN_START, _OWN_END = "kubeirq.", ".dead-letters"


class Names(Protocol):
    """The object that aiokafka asks about each topic of the cluster."""

    def match(self, topic: str) -> bool:
        """Whether the topic is read."""


class ListedTopics:
    """Those of a list that exist, now or later.

    A subscription by name asks the brokers for a missing topic, and some create a topic that is asked for: a wrong name
    would become an empty topic.
    """

    __slots__ = ("_names",)

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)

    def match(self, topic: str) -> bool:
        return topic in self._names

    def __repr__(self) -> str:
        return ", ".join(sorted(self._names))


class TopicNames:
    """The names that a pattern matches as a whole, without topics with dead letters.

    An event that is read from such a topic, and fails again, would loop.
    """

    __slots__ = ("_dead_letters", "_pattern")

    def __init__(self, pattern: str, dead_letters: str | None) -> None:
        self._pattern = TenantPattern(pattern)
        self._dead_letters = dead_letters

    def match(self, topic: str) -> bool:
        """Whether the topic is one of them. aiokafka asks for each topic of the cluster, by this method's name."""
        own = topic.startswith(_OWN_START) and topic.endswith(_OWN_END) and len(topic) > len(_OWN_START + _OWN_END)
        return not own and topic != self._dead_letters and self._pattern.matches_whole(topic)

    def __repr__(self) -> str:
        return repr(self._pattern.text)


def subscribe(consumer: Any, names: Names, listener: object) -> None:
    """Does what `consumer.subscribe(pattern=...)` does.

    That method takes only Python's own patterns, which take exponential time on some names and so stop the process.
    """
    consumer._subscription.subscribe_pattern(pattern=names, listener=listener)
    consumer._client.set_topics([])
