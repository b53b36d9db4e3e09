"""How a flow is: its conditions, judged from facts of one moment. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from trigger_sources.dispatch.counters import Counters
from trigger_sources.source import Lag

ConditionStatus = Literal["True", "False", "Unknown"]
Judged = tuple[ConditionStatus, str, str]  # status, reason, message

STARTING = "Starting"  # the reason of a source that has reported nothing yet


@dataclass(frozen=True, slots=True)
class Condition:
    """One aspect of how a flow is, as Kubernetes has them: a CamelCase reason, and a message for a person."""

    type: str
    status: ConditionStatus
    reason: str
    message: str
    since: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class FlowStatus:
    """How a flow is just now."""

    conditions: Sequence[Condition]
    counters: Counters
    held: int
    in_flight: int
    lag: Lag | None
    dead_letters: int
    last_answer: tuple[int, float, float] | None  # status, epoch seconds, latency in seconds
    last_error: str
    last_error_at: float | None = None  # seconds since the epoch
    counters_since: float = 0.0  # seconds since the epoch
    fails: str = ""  # the message while every attempt fails; empty: some events are delivered

    @property
    def ready(self) -> bool:
        return self.conditions[0].status == "True"


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts on which the conditions rest."""

    connected: bool = False  # as the source reports it, with a reason and a message
    reason: str = STARTING
    message: str = ""
    suspended_by: str = ""  # empty: it is not suspended
    function_down: bool = False
    begins_anew: str = ""  # the message for a flow that went on at no former function's place
    login: str = ""  # the identity that a broker refused
    problem: tuple[str, str] | None = None  # the reason and the message of what keeps events from ending
    held: int = 0  # events
    states: Mapping[str, int] = field(default_factory=dict)  # held events by the label of their state
    beside: bool = False  # some of them wait beside the room, behind a key that is stuck
    last_error: str = ""
    fails_since: float | None = None  # seconds since the epoch, if every attempt has failed for long enough


def fails_of(facts: Facts) -> str:
    """Says that nothing is delivered although events are tried; empty if that is not so. It has no changing numbers."""
    if facts.fails_since is None:
        return ""
    since = datetime.fromtimestamp(facts.fails_since, UTC)
    return f"every attempt has failed since {since:%Y-%m-%dT%H:%M:%SZ}, and nothing was delivered"


def connected_of(facts: Facts) -> Judged:
    if facts.suspended_by:
        return ("False", "Suspended", facts.suspended_by)
    if facts.reason == STARTING and facts.function_down:
        return ("Unknown", STARTING, "its events are asked for once the function is there")
    if facts.connected and not facts.reason and facts.begins_anew:
        return ("True", "BeginsAnew", facts.begins_anew)
    message = f"{facts.message} ({facts.login})" if facts.login else facts.message
    if facts.connected:
        return ("True", facts.reason or "Connected", message)
    return ("False", facts.reason or "NotConnected", message)


def delivering_of(facts: Facts) -> Judged:
    """It is true only if events end, or would: nothing is known about that while no event can arrive."""
    if facts.suspended_by:
        return ("False", "Suspended", facts.suspended_by)
    if facts.problem is not None:
        return ("False", *facts.problem)
    if parked := facts.states.get("parked", 0):
        lanes = "1 lane waits" if parked == 1 else f"{parked} lanes wait"
        return ("False", "Parked", f"{lanes} for `kubeirq lanes release` or `skip`; last: {facts.last_error}")
    if retrying := facts.states.get("retrying", 0):
        events = "1 event waits" if retrying == 1 else f"{retrying} events wait"
        queued = facts.states.get("queued", 0) if facts.beside else 0
        behind = f", {queued} queue behind" if queued else ""
        fails = f"; {found}" if (found := fails_of(facts)) else ""
        return ("True", "Retrying", f"{events} for another attempt{behind}{fails}; last: {facts.last_error}")
    if fails := fails_of(facts):
        return ("True", "Retrying", f"{fails}; last: {facts.last_error}")
    if facts.held:
        return ("True", "Flowing", "")
    if not facts.connected:
        return ("Unknown", "NothingArrives", "the source is not connected: see the condition Connected")
    return ("True", "Idle", "")


def ready_of(facts: Facts) -> Judged:
    """The worse one of Connected and Delivering."""
    connected, delivering = connected_of(facts), delivering_of(facts)
    # While the function is down, a source that was not asked for anything yet is not to blame
    found = (delivering, connected) if facts.reason == STARTING else (connected, delivering)
    for status in ("False", "Unknown"):
        for judged in found:
            if judged[0] == status:
                return judged
    return ("True", "Ready", "")
