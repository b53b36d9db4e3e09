"""Events that may be the reason why the process ends: each runs alone, under a durable mark."""

import logging
import secrets

from trigger_sources.context import State
from trigger_sources.delivery import Delivery

log = logging.getLogger(__name__)

_SUSPECT_AFTER = 5  # hand-outs of one position without an outcome
_PROCESS = secrets.token_bytes(8)  # a flow that starts again in this process knows its marks


class Suspects:
    """The marks of suspect events. A mark stands only from directly before a call is sent until that call ends.

    So a mark that another process left is proof: that process ended while it called this event, and nothing else.
    """

    def __init__(self, state: State, process: bytes = _PROCESS) -> None:
        self._state = state
        self._process = process
        self._marked: set[str] = set()

    @staticmethod
    def is_suspect(delivery: Delivery) -> bool:
        """Whether the position was handed out so often that its event may be what ends the process."""
        return delivery.handed_out > _SUSPECT_AFTER and delivery.position is not None

    async def is_proven(self, position: str) -> bool:
        """Whether an earlier process left a mark, which is removed: a redriven event gets another chance."""
        name = _name(position)
        found = await self._state.get(name)
        if found is None or found == self._process:
            return False
        await self._state.delete(name)
        return True

    async def mark(self, position: str) -> None:
        """Marks the event. Its call is sent after that."""
        self._marked.add(position)
        await self._state.put(_name(position), self._process)

    async def unmark(self, position: str) -> None:
        """The call has ended, in whichever way, or none was made: the process survived it."""
        if position not in self._marked:
            return
        self._marked.discard(position)
        try:
            await self._state.delete(_name(position))
        except Exception:  # the mark is this process' own, which ignores it; the event's end counts for more
            log.warning("mark not removed", extra={"position": position}, exc_info=True)


def _name(position: str) -> str:
    return f"crash/{position}"
