"""The fabric's store on a cluster: the state of sources is in the triggers' status, everything else in JetStream."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from controllers.triggers.status import StatusState, TriggerStatus, hand_over
from trigger_sources.dispatch.former_target import Decision, Former
from trigger_sources.dispatch.host import EventStore

if TYPE_CHECKING:
    from trigger_sources.dead_letters import DeadLetters
    from trigger_sources.inbox import Inbox


class ClusterStore:
    """A `host.FabricStore`. `status_of` returns the status of a trigger, and raises SourceError if it is deleted."""

    def __init__(self, status_of: Callable[[str], TriggerStatus], events: EventStore) -> None:
        self._status_of = status_of
        self._events = events

    def state(self, uid: str, function: str) -> StatusState:
        return StatusState(self._status_of(uid), function)

    async def hand_over(self, uid: str, function: str, decide: Decision) -> Former:
        return await hand_over(self._status_of(uid), function, decide)

    def dead_letters(self, uid: str, function: str) -> "DeadLetters":
        return self._events.dead_letters(uid, function)

    def inbox(self, uid: str) -> "Inbox":
        return self._events.inbox(uid)
