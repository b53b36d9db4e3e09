"""Events that may be the reason why the process ends: each runs alone, under a durable mark."""

import logging
import secrets

from trigger_sources.context import State
from trigger_sources.delivery import Delivery

log = logging.getLogger(__name__)

_SUSPECT_AFTER = 5  # hand-outs of one position without an outcome


class Suspects:
    """The marks of suspect events. A mark stands only while its event is being called.

    So a mark that another process left is proof: that process ended while it called this event, and nothing else.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._process = secrets.token_bytes(8)

    @staticmethod
    def is_suspect(delivery: Delivery) -> bool:
        """Whether the position was handed out so often that its event may be what ends the process."""
        return delivery.handed_out > _SUSPECT_AFTER and delivery.position is not None

    async def mark(self, position: str) -> bool:
        """Marks the event before its call. Returns False where an earlier process left a mark; the mark is removed."""
        name = _name(position)
        found = await self._state.get(name)
        if found is not None and found != self._process:
            await self._state.delete(name)
            return False
        await self._state.put(name, self._process)
        return True

    async def unmark(self, position: str) -> None:
        """The call has ended, in whichever way: the process survived it."""
        try:
            await self._state.delete(_name(position))
        except Exception:  # the mark is this process' own, which ignores it; the event's end counts for more
            log.warning("mark not removed", extra={"position": position}, exc_info=True)


def _name(position: str) -> str:
    return f"crash/{position}"
