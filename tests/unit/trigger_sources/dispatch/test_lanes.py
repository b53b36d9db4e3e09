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
        first = self.lanes.add(key, (key, self.number))
        assert first == (key is None or len(self.waiting[key]) == 1)

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
        following = self.lanes.finish(key)
        assert following == ((key, self.waiting[key][0]) if key in self.waiting else None)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def one_is_to_be_retried(self, data: st.DataObject) -> None:
        owner = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.lanes.ready.append(owner)

    @precondition(lambda self: any(len(queue) > 1 for queue in self.waiting.values()))
    @rule(data=st.data())
    def one_behind_the_first_is_taken_out(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(key for key, queue in self.waiting.items() if len(queue) > 1)))
        number = data.draw(st.sampled_from(list(self.waiting[key])[1:]))
        self.waiting[key].remove(number)
        self.lanes.take_out(key, (key, number), first=False)

    @precondition(lambda self: self.lanes.ready)
    @rule(data=st.data())
    def one_that_is_ready_is_taken_out_and_done_with(self, data: st.DataObject) -> None:
        key, number = data.draw(st.sampled_from(list(self.lanes.ready)))
        self.lanes.take_out(key, (key, number), first=True)
        assert (key, number) not in self.lanes.ready
        self.running.append((key, number))

    @invariant()
    def no_lane_is_stuck(self) -> None:
        """Every lane's owner is ready or running; every keyless event is too."""
        startable = {number for _, number in self.lanes.ready} | {number for _, number in self.running}
        assert startable == {queue[0] for queue in self.waiting.values()} | {number for _, number in self.free}
        assert len(self.lanes) == len(self.waiting)
        assert all(self.lanes.queued(key) == len(queue) - 1 for key, queue in self.waiting.items())


LanesAgainstAModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLanes = LanesAgainstAModel.TestCase
