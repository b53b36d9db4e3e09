"""The places that the trigger keeps in its own state, for the day when the group has none any more."""

import asyncio
import logging
from collections.abc import Iterable, Mapping

import orjson
from aiokafka import TopicPartition

from trigger_sources.context import Context, SourceError
from trigger_sources.kafka.places import Place, place_of_text

log = logging.getLogger(__name__)

_STARTED = "started"
_GONE = "gone"
_MOST_GONE = 100
_SECONDS = 5.0


class KeptPlaces:
    """Brokers forget the offsets of a group that is away too long, and of a topic that is deleted. This does not.

    On a cluster it is part of the trigger's status, so it is written rarely, and read only if the group knows less.
    """

    def __init__(self, context: Context, scope: str) -> None:
        """`scope` names the cluster and the group: places of another one do not count."""
        self._context = context
        self._scope = scope.encode()
        self.started = False  # whether the trigger has ever begun: `start` is decided then, once

    async def look(self) -> bool:
        """Looks whether the trigger has begun meanwhile."""
        if not self.started:
            self.started = await self._context.state.get(_STARTED) == self._scope
        return self.started

    async def former_group(self, cluster: str) -> str | None:
        """The group of that cluster in which the trigger has begun, if that is another one."""
        found = (await self._context.state.get(_STARTED) or b"").decode()
        prefix = f"{cluster}/"
        if not found.startswith(prefix) or found.encode() == self._scope:
            return None
        return found.removeprefix(prefix)

    async def begun(self) -> None:
        """Notes that the trigger has begun in this group. Raises SourceError."""
        await self._context.state.put(_STARTED, self._scope)
        self.started = True

    async def read(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Place]:
        """The places of those partitions that have one."""
        if not self.started:
            return {}
        found = {}
        for tp in partitions:
            text = await self._context.state.get(_name(tp))
            place = place_of_text(text.decode()) if text is not None else None
            if place is not None:
                found[tp] = place
        return found

    async def write(self, places: Mapping[TopicPartition, str], *, begun: bool = False) -> bool:
        """Keeps these places, all in one write. Returns whether they are durable now; the group has them in any case.

        `begun`: and that the trigger has begun.
        """
        state = self._context.state
        writes = [state.put(_name(tp), text.encode()) for tp, text in places.items()]
        if begun and not self.started:
            writes.append(state.put(_STARTED, self._scope))
        try:
            async with asyncio.timeout(_SECONDS):
                await asyncio.gather(*writes)
        except (SourceError, TimeoutError) as error:
            log.warning("places not kept", extra={"trigger": self._context.name, "problem": str(error) or repr(error)})
            return False
        self.started = self.started or begun
        return True

    async def gone(self, partitions: Iterable[TopicPartition], back: Iterable[TopicPartition]) -> list[TopicPartition]:
        """The topics of these partitions were deleted: the newest places stay, in case they are created again.

        `back` is there again. Returns the partitions whose places are kept no longer.
        """
        state = self._context.state
        try:
            async with asyncio.timeout(_SECONDS):
                found = await state.get(_GONE)
                names = dict.fromkeys([*(orjson.loads(found) if found is not None else ()), *map(_text, partitions)])
                for tp in back:
                    names.pop(_text(tp), None)
                ordered = list(names)
                dropped = [_partition(name) for name in ordered[:-_MOST_GONE]]
                await state.put(_GONE, orjson.dumps(ordered[-_MOST_GONE:]))
                await asyncio.gather(*(state.delete(_name(tp)) for tp in dropped))
        except (SourceError, TimeoutError) as error:
            log.warning("places not tidied", extra={"trigger": self._context.name, "problem": repr(error)})
            return []
        return dropped


def _text(tp: TopicPartition) -> str:
    return f"{tp.topic}/{tp.partition}"


def _partition(name: str) -> TopicPartition:
    topic, _, number = name.rpartition("/")
    return TopicPartition(topic, int(number))


def _name(tp: TopicPartition) -> str:
    return f"place/{_text(tp)}"
