"""The place in a partition: an offset, and the topic that the offset belongs to. Pure."""

from collections.abc import Set
from dataclasses import replace
from typing import Literal

from trigger_sources.kafka.commit_metadata import MOST_BYTES, decode, encode, marks_of
from trigger_sources.kafka.topic_ids import short_id
from trigger_sources.values import frozen

AT_BEGINNING = -2  # an offset: the first record that the partition has
_MOST_IDS = 2**128
_MOST_TIMES = 1_000
_KEPT_BYTES = 256  # of metadata that the trigger's own state keeps: a trigger may have many partitions

Origin = Literal["Committed", "New", "TopicRecreated", "OffsetsForgotten", "Truncated"]


@frozen()
class Place:
    """Where reading goes on: everything before `offset` is settled, and so is everything in `settled`.

    `topic_id` is the id of the topic that has these offsets, 0 where the broker gave none.
    `renamed`: an earlier topic had the same name, so positions and event ids name the topic's id as well.
    `times` counts how often the records from `offset` on were handed out without an orderly end.
    `epoch` is that of the leader that took the newest record which was read, -1 where the broker gave none.
    `waiting` records of the first `reach` offsets were taken and are not settled.
    `since`, if it is not 0: reading begins at the first record from that time on, in milliseconds. The partition had no
    leader that could tell the offset.
    """

    offset: int
    settled: Set[int] = frozenset()
    topic_id: int = 0
    renamed: bool = False
    times: int = 0
    epoch: int = -1
    waiting: int = 0
    reach: int = 0
    since: int = 0

    @property
    def marks(self) -> tuple[int, ...]:
        marks = self.topic_id, min(self.times, _MOST_TIMES) * 2 + self.renamed
        if self.since:
            return *marks, self.epoch + 1, self.waiting, self.reach, self.since
        if self.waiting:
            return *marks, self.epoch + 1, self.waiting, self.reach
        return marks if self.epoch < 0 else (*marks, self.epoch + 1)

    @property
    def tells_leaders(self) -> bool:
        """Whether the epochs of leaders tell if the log was cut: another topic has epochs of its own."""
        return self.topic_id != 0 and self.epoch >= 0

    @property
    def end(self) -> int:
        """The offset after the highest settled one."""
        return max(self.offset, max(self.settled, default=-1) + 1)

    def metadata(self, most_bytes: int = MOST_BYTES) -> str:
        """For a commit."""
        return encode(self.offset, self.settled, self.marks, most_bytes)

    def kept_text(self) -> str:
        """For the trigger's own state."""
        return f"{self.offset} {encode(self.offset, self.settled, self.marks, _KEPT_BYTES)}"


@frozen()
class Beginning:
    """Where a member begins with a partition, and why there. `in_group`: the group's commit names the topic too."""

    place: Place
    origin: Origin
    in_group: bool = False


def place_of_commit(offset: int, metadata: str) -> Place:
    """The place that a commit names. Version 0.1 and other programs name no topic."""
    marks = marks_of(metadata)
    settled = decode(offset, metadata)
    if len(marks) < 2 or marks[0] >= _MOST_IDS:
        return Place(offset, settled)
    # A later version may add marks behind these
    topic_id, packed, epoch = (*marks, 0)[:3]
    waiting, reach = marks[3:5] if len(marks) > 4 else (0, 0)
    since = marks[5] if len(marks) > 5 else 0
    return Place(offset, settled, topic_id, bool(packed % 2), packed // 2, epoch - 1, waiting, reach, since)


def place_of_text(text: str) -> Place | None:
    """The place in a text of `kept_text`; None for any other text."""
    offset, _, metadata = text.partition(" ")
    return place_of_commit(int(offset), metadata) if offset.isdecimal() else None


def beginning_of(commit: Place | None, kept: Place | None, topic_id: int) -> Beginning:
    """Where to begin with a partition: at the group's commit, at the place that the trigger kept, or at the beginning.

    `topic_id` is the present one, 0 if it is not known. An offset of another topic is no place of this one.
    """
    named = commit if commit is not None and commit.topic_id else kept
    renamed = named is not None and named.renamed
    if topic_id and named is not None and named.topic_id not in (0, topic_id):
        return Beginning(Place(AT_BEGINNING, topic_id=topic_id, renamed=True), "TopicRecreated")
    if commit is not None:
        times = commit.times if named is commit or kept is None or kept.offset != commit.offset else kept.times
        known = topic_id or (named.topic_id if named is not None else 0)
        return Beginning(replace(commit, topic_id=known, renamed=renamed, times=times), "Committed", named is commit)
    if kept is not None and topic_id and kept.topic_id == topic_id:
        return Beginning(kept, "OffsetsForgotten")
    return Beginning(Place(AT_BEGINNING, topic_id=topic_id, renamed=renamed), "New")


def topic_name(topic: str, place: Place) -> str:
    """The topic's name in positions and event ids. No topic can be called `NAME@...`."""
    return f"{topic}@{short_id(place.topic_id)}" if place.renamed else topic
