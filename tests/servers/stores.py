"""A store as a cluster has it: states in one place, events in another."""

from trigger_sources.dead_letters import DeadLetters
from trigger_sources.dispatch.former_target import TARGET_KEY, Decision, Former
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

    async def hand_over(self, uid: str, function: str, decide: Decision) -> Former:
        with_state = {name for (found, name), state in self._states.items() if found == uid and name and state.values}
        note = self._states.setdefault((uid, ""), MemoryState()).values
        noted = note.get(TARGET_KEY, b"").decode() or None
        former = decide(noted, with_state)
        if former.function is not None:
            theirs, own = (self._states.setdefault((uid, name), MemoryState()) for name in (former.function, function))
            own.values, theirs.values = theirs.values, {}
        if with_state - {function}:
            note[TARGET_KEY] = function.encode()
        return former

    def dead_letters(self, uid: str, function: str) -> DeadLetters:
        return self._events.dead_letters(uid, function)

    def inbox(self, uid: str) -> Inbox:
        return self._events.inbox(uid)
