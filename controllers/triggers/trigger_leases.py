"""The Leases of triggers, where only one replica at a time may run a trigger."""

from typing import Protocol

from trigger_sources.source import TriggerSource


class TriggerLeases(Protocol):
    """The Leases that this replica holds. `uid` is that of a trigger."""

    def holds(self, uid: str) -> bool:
        """Whether this replica safely holds the trigger's Lease at this moment."""

    def term_of(self, uid: str) -> int | None:
        """The term of the Lease, higher than that of every earlier holder. None if it is not safely held."""


class SingleReplica:
    """The `TriggerLeases` of the only replica, which holds every trigger."""

    def holds(self, uid: str) -> bool:
        return True

    def term_of(self, uid: str) -> int | None:
        return 0


def needs_lease(spec: TriggerSource) -> bool:
    """Whether one replica at a time may run the trigger: its source cannot share events out, or not in order."""
    return spec.sharing == "single" or (spec.sharing == "competing" and spec.lanes != "none")
