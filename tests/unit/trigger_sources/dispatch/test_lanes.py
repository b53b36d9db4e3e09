"""Lanes against a naive model: one at a time per key, in order, and no lane waits for another."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trigger_sources.dispatch.lanes import Lanes

keys = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))


class LanesAgainstAModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[tuple[str | None, int]] = Lanes()
        self.number = 0
        self.waiting: dict[str, deque[int]] = {}  # per key, everything that is not settled, oldest first
        self.free: list[tuple[None, int]] = []  # keyless and not settled
        self.running: list[tuple[str | None, int]] = []

    @rule(key=keys)
    def an_event_is_taken(self, key: str | None) -> None:
        self.number += 1
        if key is None:
            self.free.append((None, self.number))
        else:
            self.waiting.setdefault(key, deque()).append(self.number)
        self.lanes.add(key, (key, self.number))

    @precondition(lambda self: self.lanes.ready)
    @rule()
    def one_starts(self) -> None:
        key, number = self.lanes.ready.popleft()
        if key is not None:
            assert self.waiting[key][0] == number, "only the oldest of a lane may start"
            assert all(running != key for running, _ in self.running), "a lane runs one at a time"
        self.running.append((key, number))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def one_settles(self, data: st.DataObject) -> None:
        key, number = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if key is None:
            self.free.remove((None, number))
        else:
            assert self.waiting[key].popleft() == number
            if not self.waiting[key]:
                del self.waiting[key]
        self.lanes.finish(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def one_is_to_be_retried(self, data: st.DataObject) -> None:
        owner = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.lanes.ready.append(owner)

    @rule(odd=st.booleans())
    def some_that_queue_are_forgotten(self, odd: bool) -> None:
        owners = {queue[0] for queue in self.waiting.values()}
        forgotten = self.lanes.forget(lambda item: item[1] % 2 == odd)
        for key, queue in self.waiting.items():
            expected = [n for n in queue if n % 2 == odd and n not in owners]
            assert sorted(n for k, n in forgotten if k == key) == expected
            self.waiting[key] = deque(n for n in queue if n not in expected)

    @invariant()
    def no_lane_is_stuck(self) -> None:
        """Every lane's owner is ready or running; every keyless event is too."""
        startable = {number for _, number in self.lanes.ready} | {number for _, number in self.running}
        assert startable == {queue[0] for queue in self.waiting.values()} | {number for _, number in self.free}
        assert len(self.lanes) == len(self.waiting)
        queued = {number for _, number in self.lanes.waiting()}
        assert queued == {n for queue in self.waiting.values() for n in list(queue)[1:]}


LanesAgainstAModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLanes = LanesAgainstAModel.TestCase
