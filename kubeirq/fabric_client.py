"""The interface between the commands and a fabric, on this machine or on a cluster: its requests and its answers."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kubeirq.message import Message


class FabricUnreachable(Exception):
    """No fabric answers there. The text says how to start or reach one."""


class Refused(Exception):
    """The fabric refused the request. The text says why."""


Table = tuple[Sequence[str], Sequence[Sequence[Any]]]  # names of columns, rows
ResourceView = Mapping[str, Any]  # the state of a function or trigger; at least kind, namespace and name


@dataclass(frozen=True)
class Overview:
    """The state of functions and triggers, the worst first."""

    value: Mapping[str, Any]  # functions and triggers, for scripts
    tables: Sequence[Table]  # for people
    is_healthy: bool  # everything is Ready
    notes: Sequence[str] = ()  # lines for people that belong to no single row


@dataclass(frozen=True)
class Description:
    """One function or trigger in detail, with the next steps."""

    value: Mapping[str, Any]
    lines: Sequence[str]


@dataclass(frozen=True)
class Answer:
    """A function's answer. `reason` says why it failed, if the function tells."""

    status: int
    body: bytes
    reason: str = ""


@dataclass(frozen=True)
class Published:
    """How many events were published, and their positions if the source gives any."""

    count: int
    positions: Sequence[str] = field(default_factory=list)


class FabricClient(Protocol):
    """Every method raises FabricUnreachable and Refused. A `trigger` argument is a result of `trigger(name)`."""

    async def overview(self, selector: str | None, all_namespaces: bool) -> Overview:
        """`selector` is a kind (`functions`, `triggers`, `KafkaTrigger`) or a name; None selects everything."""

    async def describe(self, name: str) -> Sequence[Description]:
        """A function and a trigger of the same name are both described. Raises Refused if nothing has the name."""

    async def call(self, function: str, message: Message) -> Answer: ...

    async def publish(self, trigger: str, message: Message, count: int) -> Published: ...

    async def fire(self, trigger: ResourceView) -> Sequence[Mapping[str, Any]]:
        """Calls the trigger's functions now: function, outcome, reason, message and status for each.

        Without an outcome, the call has not ended.
        """

    def logs(self, name: str, tail: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        """The last `tail` records of a function or trigger; with `follow`, also those to come.

        Those of a function have `time` and `line`, those of a trigger what the fabric's log has. If there are several
        pods, each record has its `pod`.
        """

    async def trigger(self, name: str) -> ResourceView:
        """Finds the trigger by NAME, KIND/NAME or NAMESPACE/NAME."""

    async def failing(self, triggers: Sequence[ResourceView]) -> Sequence[str]:
        """Lines about those whose events fail or are dead letters, and about those of which that is not known."""

    async def suspend(self, trigger: ResourceView) -> None: ...

    async def resume(self, trigger: ResourceView) -> None: ...

    async def dead_letters(self, trigger: ResourceView, limit: int) -> list[dict[str, Any]]: ...

    async def dead_letter(self, trigger: ResourceView, identity: str) -> dict[str, Any]:
        """`data` is in base64."""

    def redrive(self, trigger: ResourceView, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yields one object for each dead letter, then one with `done`."""

    async def purge(self, trigger: ResourceView, identities: Sequence[str] | None) -> tuple[int, Sequence[str]]:
        """Returns how many were deleted, and the identities that there are not."""

    async def lanes(self, trigger: ResourceView) -> list[dict[str, Any]]: ...

    async def act_on_lanes(self, trigger: ResourceView, verb: str, lane: str | None) -> int:
        """`verb` is `release` or `skip`; `lane` is a name of `lanes`, None means all. Returns the number of lanes."""


def lanes_request(lane: str | None) -> Mapping[str, Any]:
    """The body of the admin API's request for one lane, or for all."""
    return {"all": True} if lane is None else {"lane": lane}
