"""A store as a cluster has it: states in one place, events in another."""

from trigger_sources.dead_letters import DeadLetters
from trigger_sources.dispatch.host import EventStore
from trigger_sources.inbox import Inbox
from trigger_sources.source import State
from trigger_sources.testing.stand_in import MemoryState


class ComposedStore:
    """A `host.FabricStore` whose states live as long as the test."""

    def __init__(self, events: EventStore) -> None:
        self._events = events
        self._states: dict[tuple[str, str], MemoryState] = {}

    def state(self, uid: str, function: str) -> State:
        return self._states.setdefault((uid, function), MemoryState())

    def dead_letters(self, uid: str, function: str) -> DeadLetters:
        return self._events.dead_letters(uid, function)

    def inbox(self, uid: str) -> Inbox:
        return self._events.inbox(uid)
