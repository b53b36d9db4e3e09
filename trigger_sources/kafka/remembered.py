"""The records that settled and whose commit may have reached no broker, as this process remembers them."""

from collections.abc import Set

from aiokafka import TopicPartition

from trigger_sources.kafka.partition import Partition
from trigger_sources.kafka.places import Place, place_of_commit
from trigger_sources.kafka.watermark import Watermark
from trigger_sources.values import frozen


@frozen()
class Remembered:
    """A partition that was given up. `committed` is the group's offset then, as far as this process knows.

    `end` is the end of the partition that the brokers told, 0 if they told none. `epoch` is that of the place.
    `unread` records before `unread_until` were taken by the member before, and not read again yet.
    """

    topic_id: int
    mark: Watermark
    committed: int
    end: int = 0
    epoch: int = -1
    unread: int = 0
    unread_until: int = 0
    commit: Place | None = None  # the group's then, as far as this process knows

    def is_of(self, place: Place) -> bool:
        """Whether it goes on to that place: not of another topic, nor if somebody has reset the group."""
        return place.topic_id == self.topic_id and place.offset >= self.committed

    def waiting_in(self, place: Place) -> tuple[int, int]:
        """How many records from that commit on were taken and are not settled, by now; and the reach of these.

        Calls may end after the partition was given up. If the commit is another one than this member knows, another
        member has read the partition meanwhile, and the commit tells.
        """
        if self._is_commit(place):
            waiting = self.mark.unsettled_in(place.offset, self.mark.end, place.settled) + self.unread
            return waiting, max(0, max(self.mark.end, self.unread_until) - place.offset)
        more = self.mark.settled_from(place.offset) - place.settled
        waiting = place.waiting - sum(offset < place.offset + place.reach for offset in more)
        return (waiting, place.reach) if waiting > 0 else (0, 0)

    def _is_commit(self, place: Place) -> bool:
        if self.commit is None:
            return place.offset == self.committed
        return _content(place) == _content(self.commit)

    def settled_from(self, place: Place) -> Set[int]:
        """The settled records from that place on, if it is of that place."""
        return self.mark.settled_from(place.offset) if self.is_of(place) else frozenset()


Memory = dict[TopicPartition, Remembered]


def remembered(partition: Partition, end: int = 0) -> Remembered:
    offset = partition.place.offset if partition.committed is None else partition.committed[0]
    place = partition.place
    return Remembered(
        place.topic_id, partition.mark, offset, end, place.epoch, max(0, partition.waiting), partition.waits_until,
        place if partition.committed is None else place_of_commit(*partition.committed),
    )  # fmt: skip


def _content(place: Place) -> tuple[int, Set[int], int, int]:
    return place.offset, place.settled, place.waiting, place.reach


def memory_of(uid: str, function: str, group: str) -> Memory:
    """A trigger's, for one function and its group. It lasts until `forget`, or until another group is asked for.

    So it outlives the source, which starts again after an error or an edit.
    """
    known, found = _MEMORIES.get((uid, function), ("", {}))
    if known != group:
        found = {}
        _MEMORIES[uid, function] = group, found
    return found


def forget(uid: str, function: str) -> None:
    """The trigger is gone, or does not call that function any more."""
    _MEMORIES.pop((uid, function), None)


_MEMORIES: dict[tuple[str, str], tuple[str, Memory]] = {}
