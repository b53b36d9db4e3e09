"""The way to a function: what opens and closes it, and who may call while it is closed."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from trigger_sources.dispatch.gate import Gate


class Clock:
    """The running loop's time, in the test's hands."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time, self._passed = loop.time, 0.0
        loop.time = lambda: self._time() + self._passed  # type: ignore[method-assign]

    async def passes(self, seconds: float) -> None:
        """Runs what is due by then."""
        self._passed += seconds
        for _ in range(3):
            await asyncio.sleep(0)


class Flow:
    """Has events without end, one call at a time: starts one whenever the gate lets it."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.calls = 0

    def __call__(self) -> None:
        self.calls += self.gate.admits(self)


@pytest_asyncio.fixture
async def gate() -> AsyncIterator[Gate]:
    found = Gate("f", "http://127.0.0.1:9/")
    yield found
    await found.aclose()


@pytest.fixture
def flow(gate: Gate) -> Flow:
    return Flow(gate)


async def test_who_knows_that_there_is_nothing_is_believed_for_good(gate: Gate, flow: Flow) -> None:
    clock = Clock()
    gate.close("there is no Function 'f'")
    flow()
    await clock.passes(86_400)
    assert flow.calls == 0
    assert not gate.may_probe
    assert gate.down_reason == "there is no Function 'f'"


@pytest.mark.parametrize("probe", [False, True])
async def test_who_knows_that_it_is_ready_opens_it_at_once(gate: Gate, flow: Flow, probe: bool) -> None:
    gate.close("no replica is ready", probe=probe)
    flow()
    assert (flow.calls, gate.is_down) == (0, True)
    gate.open()
    assert (flow.calls, gate.is_down, gate.down_reason) == (1, False, "")


async def test_a_belief_is_tried_every_five_seconds_and_a_wrong_one_ends_with_the_first_answer(
    gate: Gate, flow: Flow
) -> None:
    clock = Clock()
    gate.close("no replica is ready", probe=True)
    flow()
    for tries in range(3):
        await clock.passes(4.9)
        assert flow.calls == tries
        await clock.passes(0.2)
        assert flow.calls == tries + 1
        flow()
        assert flow.calls == tries + 1, "one at a time; the flow waits for the next"
        gate.unreachable("connection refused")
        assert gate.down_reason == "no replica is ready", "a watcher knows the reason better"
    await clock.passes(5)
    flow()
    assert flow.calls == 4
    gate.answered(0.001, 30, ok=False)
    assert (flow.calls, gate.is_down) == (5, False)


async def test_word_that_comes_again_and_again_does_not_put_the_trial_off(gate: Gate, flow: Flow) -> None:
    clock = Clock()
    flow()
    gate.abandoned()
    gate.close("no replica is ready", probe=True)
    flow()
    for _ in range(6):
        await clock.passes(1)
        gate.close("no replica is ready", probe=True)
    assert flow.calls == 2


async def test_what_the_last_replica_still_answers_does_not_open_it(gate: Gate, flow: Flow) -> None:
    """A pod that is going ends its calls; it takes no new ones."""
    assert gate.admits(flow)
    assert gate.admits(flow)
    gate.close("no replica is ready", probe=True)
    gate.answered(0.001, 30, ok=True)
    assert gate.is_down
    gate.unreachable("connection refused")
    assert (gate.is_down, gate.down_reason) == (True, "no replica is ready")


@pytest.mark.parametrize("sure_first", [False, True])
async def test_sure_and_believed_may_follow_each_other(gate: Gate, flow: Flow, sure_first: bool) -> None:
    clock = Clock()
    gate.close("first", probe=not sure_first)
    flow()
    gate.close("second", probe=sure_first)
    await clock.passes(5.1)
    assert (flow.calls, gate.down_reason) == (int(sure_first), "second")


async def test_a_trial_under_way_when_it_becomes_sure_opens_nothing(gate: Gate, flow: Flow) -> None:
    clock = Clock()
    gate.close("no replica is ready", probe=True)
    flow()
    await clock.passes(5.1)
    assert flow.calls == 1
    gate.close("there is no Function 'f'")
    gate.answered(0.001, 30, ok=True)
    assert gate.is_down
    gate.open()
    assert not gate.is_down


async def test_what_only_calls_found_out_any_answer_refutes(gate: Gate, flow: Flow) -> None:
    """One sick replica among healthy ones is not down."""
    assert gate.admits(flow)
    assert gate.admits(flow)
    gate.unreachable("connection refused")
    assert (gate.is_down, gate.down_reason) == (True, "connection refused")
    gate.answered(0.001, 30, ok=True)
    assert not gate.is_down


async def test_after_it_opens_the_flow_ramps_up(gate: Gate, flow: Flow) -> None:
    gate.close("starting")
    gate.open()
    admitted = 0
    while gate.admits(flow):
        admitted += 1
    assert admitted == 2
    gate.answered(0.001, 30, ok=True)  # each success makes room for one more; the woken flow took the first
    assert flow.calls == 1
    assert gate.admits(flow)
    assert not gate.admits(flow)


async def test_a_move_keeps_what_is_known(gate: Gate, flow: Flow) -> None:
    gate.close("no replica is ready")
    flow()
    before = gate.endpoint
    gate.move("http://127.0.0.1:10/")
    assert gate.endpoint is not before
    assert (gate.is_down, flow.calls) == (True, 0)
    gate.open()
    assert flow.calls == 1


async def test_a_flow_that_has_nothing_to_start_any_more_takes_nobodys_turn(gate: Gate, flow: Flow) -> None:
    """Its events were withdrawn while it waited for its turn."""
    gate.concurrency = 1
    assert gate.admits(flow)
    gate.answered(20.0, 30.0, True)  # slow enough that no second call may be outstanding
    assert gate.admits(flow)
    without_events: list[str] = []
    assert not gate.admits(lambda: without_events.append("asked"))
    other = Flow(gate)
    other()
    assert other.calls == 0
    gate.answered(20.0, 30.0, True)
    assert without_events == ["asked"]
    assert other.calls == 1
    assert gate.in_flight == 1


async def test_a_call_that_is_given_up_lets_the_next_flow_with_events_start(gate: Gate) -> None:
    gate.close("the process was stopped", probe=True)
    gate.open()  # two calls at once, for now
    assert gate.admits(lambda: None)
    assert gate.admits(lambda: None)
    assert not gate.admits(lambda: None)
    other = Flow(gate)
    other()
    gate.abandoned()
    assert (other.calls, gate.in_flight) == (1, 2)
