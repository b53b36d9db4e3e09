"""What the fabric itself keeps on a cluster: the state of sources in the triggers' status, all else in JetStream."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from controllers.triggers.status import StatusState, TriggerStatus
from trigger_sources.dispatch.host import EventStore

if TYPE_CHECKING:
    from trigger_sources.dead_letters import DeadLetters
    from trigger_sources.inbox import Inbox


class ClusterStore:
    """A `host.FabricStore`. `status_of` gives where a trigger's state is; it raises SourceError where it is gone."""

    def __init__(self, status_of: Callable[[str], TriggerStatus], kept: EventStore) -> None:
        self._status_of = status_of
        self._kept = kept

    def state(self, uid: str, function: str) -> StatusState:
        return StatusState(self._status_of(uid), function)

    def dead_letters(self, uid: str, function: str) -> "DeadLetters":
        return self._kept.dead_letters(uid, function)

    def inbox(self, uid: str) -> "Inbox":
        return self._kept.inbox(uid)
