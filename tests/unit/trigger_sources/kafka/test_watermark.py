"""The watermark compared with a naive model."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trigger_sources.kafka.commit_metadata import decode
from trigger_sources.kafka.watermark import Watermark


class WatermarkAgainstAModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.known = {103, 104, 109, 130}  # settled before the restart: read again, and skipped
        self.mark = Watermark(100, self.known)
        self.after = 100
        self.open: list[int] = []
        self.done: set[int] = set()

    @rule(gap=st.integers(0, 3))
    def one_is_taken(self, gap: int) -> None:
        offset = self.after + gap
        self.after = offset + 1
        if self.mark.knows(offset):
            assert offset in self.known
            self.done.add(offset)
            self.mark.skip(offset)
        else:
            self.open.append(offset)
            self.mark.take(offset)

    @rule(gap=st.integers(0, 3))
    def one_is_skipped(self, gap: int) -> None:
        offset = self.after + gap
        self.after = offset + 1
        self.done.add(offset)
        self.mark.skip(offset)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), twice=st.booleans())
    def one_settles(self, data: st.DataObject, twice: bool) -> None:
        offset = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.done.add(offset)
        self.mark.settle(offset)
        if twice:
            self.mark.settle(offset)

    @invariant()
    def nothing_unsettled_is_below_the_watermark(self) -> None:
        expected = min(self.open, default=self.after)
        if self.open or self.done:
            assert self.mark.committable == expected
            assert self.mark.distance == self.after - expected
        assert self.mark.unsettled == len(self.open)

    @invariant()
    def what_is_not_settled_is_counted(self) -> None:
        for offset in (100, self.after - 2, self.after):
            assert self.mark.unsettled_in(offset, 1_000) == sum(found >= offset for found in self.open)
            assert self.mark.unsettled_in(0, offset, {0}) == sum(0 < found < offset for found in self.open)
        for end in (self.after - 3, self.after, self.after + 40):
            assert self.mark.untaken(self.after, end) == len({*range(self.after, end)} - self.known)
            assert self.mark.behind(end) == len(self.open) + max(0, end - self.after)

    @invariant()
    def the_metadata_names_what_is_settled_above_and_nothing_else(self) -> None:
        above = {offset for offset in self.done if offset > self.mark.committable} if self.open else set()
        above |= {offset for offset in self.known if offset >= self.mark.committable}
        assert decode(self.mark.committable, self.mark.metadata()) == above


WatermarkAgainstAModel.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestWatermark = WatermarkAgainstAModel.TestCase
