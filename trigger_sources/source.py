"""The plugin API: a source is a frozen, typed model whose fields are the trigger's `spec`, with one async generator."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import get_annotations
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from trigger_sources.context import Context, MissingSecret, SourceError, State
from trigger_sources.dead_letters import DeadLetters
from trigger_sources.delivery import Delivery
from trigger_sources.events import Event
from trigger_sources.http_requests import Route
from trigger_sources.reply import Reply
from trigger_sources.spec import DeliveryPolicy, Spec, Target

__all__ = ["Context", "Lag", "MissingSecret", "Ordering", "Sharing", "SourceError", "State", "TriggerSource"]

Ordering = Literal["key", "partition", "none"]
Sharing = Literal["partitioned", "competing", "single"]

# Fields of every trigger; `batch` is reserved
COMMON_FIELDS = frozenset(
    {"function", "target", "ordering", "concurrency", "filter", "filter_error", "batch", "delivery", "reply", "suspend"}
)


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a trigger is behind its source. None: the source does not know."""

    events: int | None
    seconds: float | None = None  # the age of the oldest event that is not settled
    of_share: bool = False  # of this replica's share only: the lags of all replicas add up


class TriggerSource(Spec):
    """Base of every trigger's spec. A subclass adds its fields and `deliveries`; its docstring describes the kind."""

    api_group: ClassVar[str] = "kubeirq.dev"
    sharing: ClassVar[Sharing] = "single"  # how replicas share: by partition, competing, or only one at a time
    fan_out: ClassVar[bool] = True  # False: admission refuses a selector that matches several functions
    default_ordering: ClassVar[Ordering] = "none"
    extend_seconds: ClassVar[float] = 10
    letter_fields: ClassVar[Sequence[str]] = ()  # its own fields that decide where its `dead_letters` are
    printer_columns: ClassVar[
        Mapping[str, str]
    ] = {}  # further columns of `kubectl get`: the title, and the field that it shows

    target: Target | None = Field(
        None, description="The Function or address to call; `function: NAME` is short for target.function"
    )
    ordering: Ordering | None = Field(
        None,
        description="Events of one key, or of one partition, run one at a time and in order; none: in any order;"
        " unset: the kind's default",
    )
    concurrency: int = Field(16, ge=1, le=10_000, description="The most events in flight at once")
    filter: str | None = Field(
        None,
        max_length=16_384,
        description="A CEL expression over event, data, key and headers; where it is false, the function is not called",
    )
    filter_error: Literal["deadLetter", "deliver", "drop"] = Field(
        "deadLetter", description="The end of an event on which the filter cannot be evaluated"
    )
    delivery: DeliveryPolicy = Field(
        default_factory=DeliveryPolicy, description="Time-outs, retries, and the end of events that cannot be delivered"
    )
    reply: SerializeAsAny[Reply] | None = Field(
        None, description="Publishes the function's answer: exactly one of these"
    )
    suspend: bool = Field(
        False, description="true: the trigger drains and stops pulling; false: it continues where it was"
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        taken = COMMON_FIELDS & (set(get_annotations(cls)) | set(cls.__dict__))
        if taken:
            raise TypeError(
                f"{cls.__name__}: {', '.join(sorted(taken))}: reserved for the fields that all triggers share"
            )

    @model_validator(mode="before")
    @classmethod
    def _short_targets(cls, data: Any) -> Any:
        """`function`, `functionSelector` and `url` among the kind's own fields are short for `target`."""
        if not isinstance(data, dict):
            return data
        shorts = {"function": "function", "functionSelector": "selector", "url": "url"}
        given = {short: data[short] for short in shorts if short in data and short not in cls.model_fields}
        if not given:
            return data
        if len(given) > 1 or "target" in data:
            names = [*given, *(["target"] if "target" in data else [])]
            raise ValueError(
                f"exactly one of function, target, functionSelector, url is needed; given: {', '.join(names)}"
            )
        ((short, value),) = given.items()
        rest = {name: found for name, found in data.items() if name != short}
        return {**rest, "target": {shorts[short]: value}}

    @model_validator(mode="after")
    def _has_target(self) -> "TriggerSource":
        if self.target is None:
            raise ValueError("function: a target is needed: function, target, functionSelector or url")
        return self

    @property
    def lanes(self) -> Ordering:
        return self.ordering or self.default_ordering

    @property
    def callers_wait(self) -> bool:
        """Whether callers wait for the answers. The events are then taken even while the function is down."""
        return False

    @property
    def needs_dead_letters(self) -> bool:
        """Whether the fabric may dead-letter events by itself. There must be a place for dead letters then."""
        unreadable = self.filter is not None and self.filter_error == "deadLetter"
        return self.delivery.on_failure == "deadLetter" or unreadable

    @property
    def addresses(self) -> Mapping[str, Sequence[str]]:
        """The brokers or servers that the spec names, by kind ("kafka", "nats"). Replies of that kind use them too."""
        return {}

    def claims(self, name: str) -> frozenset[str]:
        """The claims that only one trigger of the kind can own, in words, as `POST /orders`; `name` is the trigger's.

        If several triggers have the same claim, the oldest trigger owns it, in every process alike.
        """
        return frozenset()

    def route(self, name: str) -> Route | None:
        """The route that it serves on the gateway, if any; `name` is the trigger's.

        On a cluster, a trigger does not get requests that an older trigger of another namespace serves: see
        `takes_from`.
        """
        return None

    def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        """The one required method, an async generator. Yields lists of at most `context.room` deliveries.

        The fabric takes each list whole. No read blocks for more than a second, so that the generator sees
        `context.stopping`. It must give back events that it read and did not yield. `finally` closes connections. If
        the generator raises, the fabric restarts it with backoff; if it returns, the trigger is complete.
        """
        raise TypeError(f"{type(self).__name__} defines no deliveries(context)")

    def event_now(self, context: Context) -> Event | None:
        """The event of this moment, for a person who fires the trigger by hand. None: its events come from outside."""
        return None

    async def lag(self, context: Context) -> Lag | None:
        """The trigger's lag. Called on a timer while the generator runs. None: the source does not know."""
        return None

    @property
    def has_lag(self) -> bool:
        """Whether `lag` ever returns one: nobody asks a source that never does."""
        return type(self).lag is not TriggerSource.lag

    def uncommitted(self, context: Context) -> int | None:
        """How many events are settled while the source may not know it, so that a crash repeats them, at most.

        Called for each look at the metrics. None: that is not known.
        """
        return None

    def forget(self, context: Context) -> None:
        """Forgets what this process kept for the next start: the trigger is gone, or calls the function no more."""

    async def prepare(self, context: Context) -> None:
        """Creates topics, streams and the like if needed, and tests the rights to them, before the first read.

        Raises SourceError.
        """

    def dead_letters(self, context: Context) -> DeadLetters | None:
        """The place of this trigger's dead letters; None: the fabric's own store."""
        return None
