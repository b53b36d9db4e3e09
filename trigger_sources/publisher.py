"""The base of reply targets. Part of the plugin API."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from trigger_sources.context import Context
from trigger_sources.events import Event
from trigger_sources.spec import Spec


class ReplyRefused(Exception):
    """This reply can never be published: it is too large, or the receiver refuses it for good."""


class Publisher(Protocol):
    """Publishes replies to one place."""

    async def publish(self, event: Event, key: bytes | None) -> None:
        """Returns once the event is published and confirmed.

        Raises ReplyRefused when another attempt cannot succeed; any other exception leads to another attempt.
        """

    async def close(self) -> None: ...


class PublisherOnce(Publisher, Protocol):
    """A publisher to a place that recognizes repeats. The fabric calls `publish_once` instead of `publish`."""

    async def publish_once(self, event: Event, key: bytes | None, identity: str) -> None:
        """As `publish`. Every attempt to publish the reply to one delivery has the same `identity`.

        No other reply has this identity, even if its event has the same id: a function may return the event that it
        got.
        """


class ReplyTarget(Spec):
    """Base of every kind of reply target: a frozen, typed model whose fields are those below `spec.reply.<kind>`.

    A subclass adds its fields and `open`; its docstring describes the kind.
    """

    @property
    def addresses(self) -> Mapping[str, Sequence[str]]:
        """The brokers or servers that the target names, by kind ("kafka", "nats"). Empty: the trigger's own, if any."""
        return {}

    async def open(self, context: Context, addresses: Mapping[str, Sequence[str]]) -> Publisher:
        """The one required method. `addresses` are those that the trigger itself names, by kind.

        Raises SourceError, MissingSecret.
        """
        raise TypeError(f"{type(self).__name__} defines no open(context, addresses)")
