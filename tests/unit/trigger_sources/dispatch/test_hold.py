"""The hold while everything fails: one event at a time tries, and a success or a person ends it."""

from collections.abc import Iterator

import pytest
from life.stage import ManualLoop

from trigger_sources.dispatch.hold import TRY_AGAIN_SECONDS, FailureHold


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    found = ManualLoop()
    yield found
    found.close()


def holding(loop: ManualLoop, tries: list[str]) -> FailureHold:
    hold = FailureHold(3, lambda: tries.append("try"), {"trigger": "default/t"})

    async def fail() -> None:
        assert not hold.failed_finally("a", "status 400", lambda lanes: True, counts=True)
        assert not hold.failed_finally("b", "status 400", lambda lanes: True, counts=True)
        assert hold.failed_finally("c", "status 400", lambda lanes: True, counts=True)

    loop.run_until_complete(fail())
    return hold


def test_it_begins_after_so_many_failures_and_lets_one_event_try_when_its_timer_fires(loop: ManualLoop) -> None:
    tries: list[str] = []
    hold = holding(loop, tries)
    assert hold.since is not None
    assert not hold.may_start("a")
    assert [timer.when() - loop.time() for timer in loop.timers] == [TRY_AGAIN_SECONDS]
    loop.fire(lambda timer: True)
    assert tries == ["try"]
    assert hold.may_start("a")
    hold.started()
    assert not hold.may_start("b"), "one event is on trial"
    hold.trial_over()
    assert hold.may_start("b")


def test_an_event_of_a_lane_that_has_not_failed_need_not_wait(loop: ManualLoop) -> None:
    hold = holding(loop, [])
    assert hold.may_start("d")
    hold.started()
    assert not hold.may_start("e")


def test_a_failed_attempt_makes_the_next_trial_wait(loop: ManualLoop) -> None:
    hold = holding(loop, [])
    loop.fire(lambda timer: True)
    hold.started()

    async def fail() -> None:
        hold.attempt_failed()

    loop.run_until_complete(fail())
    assert not hold.may_start("a")
    assert len(loop.timers) == 1


def test_a_success_ends_it(loop: ManualLoop) -> None:
    hold = holding(loop, [])
    assert hold.succeeded()
    assert hold.since is None
    assert hold.may_start("a")
    assert loop.timers == []
    assert not hold.succeeded(), "there was nothing to end"


def test_a_redriven_event_that_fails_again_does_not_count(loop: ManualLoop) -> None:
    hold = FailureHold(1, lambda: None, {})
    assert not hold.failed_finally("a", "status 400", lambda lanes: False, counts=False)


def test_without_a_number_it_never_begins(loop: ManualLoop) -> None:
    hold = FailureHold(None, lambda: None, {})
    assert not any(hold.failed_finally(number, "status 400", lambda lanes: False, counts=True) for number in range(100))
