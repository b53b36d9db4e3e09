"""The places that the trigger keeps in its own state, for the day when the group has none any more."""

import asyncio
import logging
from collections.abc import Iterable, Mapping

import orjson
from aiokafka import TopicPartition

from trigger_sources.context import Context, SourceError
from trigger_sources.kafka.places import Place, place_of_text
from trigger_sources.kept_state import Damaged, read

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
            found = await read(self._context.state, _STARTED, _scope_from)
            # A damaged note is one all the same: partitions without a place then begin at their beginning
            self.started = isinstance(found, Damaged) or found == self._scope.decode()
        return self.started

    async def former_group(self, cluster: str) -> str | None:
        """The group of that cluster in which the trigger has begun, if that is another one."""
        found = await read(self._context.state, _STARTED, _scope_from)
        prefix = f"{cluster}/"
        if not isinstance(found, str) or not found.startswith(prefix) or found == self._scope.decode():
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
            place = await read(self._context.state, _name(tp), _place_from)
            if isinstance(place, Place):
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
                found = await read(state, _GONE, _names_from)
                names = dict.fromkeys([*(found if isinstance(found, list) else ()), *map(_text, partitions)])
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


def _scope_from(value: bytes) -> str:
    text = value.decode()
    if "/" not in text:
        raise ValueError("it names no cluster and group")
    return text


def _place_from(value: bytes) -> Place:
    place = place_of_text(value.decode())
    if place is None:
        raise ValueError("it has no offset")
    return place


def _names_from(value: bytes) -> list[str]:
    names = orjson.loads(value)
    if not isinstance(names, list) or not all(
        isinstance(name, str) and name.rpartition("/")[2].isdecimal() for name in names
    ):
        raise ValueError("it is no list of partitions")
    return names


def _text(tp: TopicPartition) -> str:
    return f"{tp.topic}/{tp.partition}"


def _partition(name: str) -> TopicPartition:
    topic, _, number = name.rpartition("/")
    return TopicPartition(topic, int(number))


def _name(tp: TopicPartition) -> str:
    return f"place/{_text(tp)}"
