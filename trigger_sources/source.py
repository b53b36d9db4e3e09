"""The plugin API: a source is a frozen, typed model whose fields are the trigger's `spec`, with one async generator."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import get_annotations
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from trigger_sources.context import Context, MissingSecret, SourceError, State
from trigger_sources.dead_letters import DeadLetters
from trigger_sources.delivery import Delivery
from trigger_sources.http_requests import Route
from trigger_sources.reply import Reply
from trigger_sources.spec import DeliveryPolicy, Spec, Target

__all__ = ["Context", "Lag", "MissingSecret", "Ordering", "Sharing", "SourceError", "State", "TriggerSource"]

Ordering = Literal["key", "partition", "none"]
Sharing = Literal["partitioned", "competing", "single"]

# Fields of every trigger. `batch` and `start` are reserved though not every source has them.
COMMON_FIELDS = frozenset(
    {"function", "target", "ordering", "concurrency", "filter", "filter_error", "batch", "delivery", "reply", "suspend"}
)


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind its source a trigger is. None where the source cannot tell."""

    events: int | None
    seconds: float | None = None  # the age of the oldest event that is not settled
    of_share: bool = False  # of this replica's share only: those of all replicas add up


class TriggerSource(Spec):
    """Base of every trigger's spec. A subclass adds its fields and `deliveries`; its docstring describes the kind."""

    api_group: ClassVar[str] = "kubeirq.dev"
    sharing: ClassVar[Sharing] = "single"  # how replicas share: by partition, competing, or only one at a time
    fan_out: ClassVar[bool] = True  # False: a selector that matches several functions is refused at admission
    default_ordering: ClassVar[Ordering] = "none"
    extend_seconds: ClassVar[float] = 10
    printer_columns: ClassVar[
        Mapping[str, str]
    ] = {}  # of `kubectl get`, beside those of all: title, and the field it shows

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
        taken = (COMMON_FIELDS | {"batch"}) & (set(get_annotations(cls)) | set(cls.__dict__))
        if taken:
            raise TypeError(
                f"{cls.__name__}: {', '.join(sorted(taken))}: reserved for the fields that all triggers share"
            )

    @model_validator(mode="before")
    @classmethod
    def _short_targets(cls, data: Any) -> Any:
        """`function`, `functionSelector` and `url` beside the kind's own fields are short for `target`."""
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
            raise ValueError("function: what to call is needed: function, target, functionSelector or url")
        return self

    @property
    def lanes(self) -> Ordering:
        return self.ordering or self.default_ordering

    @property
    def callers_wait(self) -> bool:
        """Whether its events have callers that wait for the answer: they are taken even while the function is down."""
        return False

    @property
    def needs_dead_letters(self) -> bool:
        """Whether its events may become dead letters without anyone's doing: there must be a place for them then."""
        unreadable = self.filter is not None and self.filter_error == "deadLetter"
        return self.delivery.on_failure == "deadLetter" or unreadable

    @property
    def addresses(self) -> Mapping[str, Sequence[str]]:
        """The brokers or servers that the spec names, by kind ("kafka", "nats"): replies of that kind go there too."""
        return {}

    def claims(self, name: str) -> frozenset[str]:
        """What only one trigger of the kind can have, in words, as `POST /orders`; `name` is the trigger's.

        Of several triggers that claim the same the oldest has it, in every process alike.
        """
        return frozenset()

    def route(self, name: str) -> Route | None:
        """What it serves on the gateway; `name` is the trigger's. Unset: nothing.

        On a cluster a trigger serves no requests that an older one of another namespace gets: see `takes_from`.
        """
        return None

    def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        """The one required method, an async generator. Yields lists of at most `context.room` deliveries.

        Each list is taken whole. No read blocks for more than a second, so that `context.stopping` is seen. It keeps no
        buffer of its own: what it read and did not yield it must give back. `finally` closes connections. Raising is
        answered by a restart with backoff; returning completes the trigger.
        """
        raise TypeError(f"{type(self).__name__} defines no deliveries(context)")

    async def lag(self, context: Context) -> Lag | None:
        """How far behind the trigger is; asked on a timer, beside the generator. None: the source cannot tell."""
        return None

    async def prepare(self, context: Context) -> None:
        """Creates what is needed and tests the rights to it, before the first pull. Raises SourceError."""

    def dead_letters(self, context: Context) -> DeadLetters | None:
        """Where this trigger's dead letters live; None: the fabric's own store."""
        return None
