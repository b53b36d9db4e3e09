"""Topics by a pattern that a tenant writes."""

from typing import Any

from trigger_sources.patterns import TenantPattern

_OWN_START, _OWN_END = "kubeirq.", ".dead-letters"


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


def subscribe(consumer: Any, names: TopicNames, listener: object) -> None:
    """Does what `consumer.subscribe(pattern=...)` does.

    That method takes only Python's own patterns, which take exponential time on some names and so stop the process.
    """
    consumer._subscription.subscribe_pattern(pattern=names, listener=listener)
    consumer._client.set_topics([])
