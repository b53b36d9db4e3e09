"""A log that was cut and has grown again: nothing new is skipped, and nothing that stayed is repeated."""

from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.kafka.commit_metadata import LEAST_BYTES
from trigger_sources.kafka.cut_logs import Cut, Known, place_in
from trigger_sources.kafka.places import Place, place_of_commit, place_of_text
from trigger_sources.kafka.watermark import Watermark


class Log:
    """A partition's log as its brokers keep it. A record is its own number, however often an offset is used."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int]] = []  # the number, and the epoch of the leader that took it
        self.starts = [(0, 0)]  # of each epoch
        self.numbers = 0

    @property
    def epoch(self) -> int:
        return self.starts[-1][0]

    def append(self, count: int) -> None:
        for _ in range(count):
            self.numbers += 1
            self.records.append((self.numbers, self.epoch))

    def elect(self, kept: int) -> None:
        """A new leader that has only so many records."""
        kept = min(kept, len(self.records))
        del self.records[kept:]
        epoch = self.epoch + 1
        self.starts = [(found, start) for found, start in self.starts if start < kept] + [(epoch, kept)]

    def end_of(self, epoch: int) -> tuple[int, int]:
        """The answer of a broker: the end of the newest epoch that is not above, and that epoch."""
        index = bisect_right(self.starts, (epoch, len(self.records)))
        end = self.starts[index][1] if index < len(self.starts) else len(self.records)
        return end, self.starts[index - 1][0] if index else epoch


LOGS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=5)


@given(before=LOGS, read=st.integers(0, 30), after=LOGS, data=st.data())
def test_nothing_new_is_skipped_and_nothing_that_stayed_is_repeated(
    before: list[tuple[int, int]], read: int, after: list[tuple[int, int]], data: st.DataObject
) -> None:
    log = Log()
    for count, _kept in before:
        log.append(count)
        log.elect(len(log.records))  # nothing is lost before it is read
    log.append(3)
    seen = log.records[:read]
    settled = frozenset(data.draw(st.sets(st.integers(0, len(seen) - 1)))) if seen else frozenset()
    offset = next(number for number in range(len(seen) + 1) if number not in settled)
    epoch = seen[-1][1] if seen else -1
    place = Place(offset, frozenset(found for found in settled if found > offset), 7, epoch=epoch)
    assert place_of_commit(place.offset, place.metadata()) == place
    assert place_of_text(place.kept_text()) is not None
    for count, kept in after:
        log.elect(kept)
        log.append(count)
    if epoch < 0:
        return
    end, last = log.end_of(epoch)
    going_on = place
    if end < len(seen):
        going_on = place_in(place, Cut(end, len(log.records), last))
    done = {*range(going_on.offset), *going_on.settled}
    for number, record in enumerate(log.records):
        is_same = number < len(seen) and seen[number] == record
        assert (number in done) == (is_same and number in settled)
    mark = Watermark(0)
    for number in range(len(seen)):
        mark.take(number)
    for number in settled:
        mark.settle(number)
    if end < len(seen):
        lost = Known(place, mark, len(seen), len(seen), len(seen)).lost_from(end, len(seen))
        gone = {number for number, record in enumerate(seen) if log.records[number : number + 1] != [record]}
        assert lost == len(gone - settled)


def test_a_place_with_an_epoch_fits_the_least_metadata() -> None:
    place = Place(5, topic_id=2**128 - 1, renamed=True, times=1_000, epoch=2**31 - 1)
    text = place.metadata(LEAST_BYTES)
    assert len(text) <= LEAST_BYTES
    assert place_of_commit(5, text) == place
