"""The pace of rollouts that no author asked for."""

from controllers.functions.rollouts import LEAST_AT_ONCE, MOST_SECONDS, Rollouts


def test_a_few_run_at_once_and_each_end_makes_room_for_the_first_that_waits() -> None:
    rollouts: Rollouts[int] = Rollouts()
    started = [key for key in range(20) if rollouts.may_start(key, 20, 0)]
    assert started == list(range(LEAST_AT_ONCE))
    assert rollouts.waiting == 20 - LEAST_AT_ONCE
    assert rollouts.due(20, 1) == []
    rollouts.ended(2)
    assert rollouts.due(20, 1) == [LEAST_AT_ONCE]
    assert rollouts.may_start(LEAST_AT_ONCE, 20, 1)
    assert not rollouts.may_start(LEAST_AT_ONCE + 1, 20, 1)


def test_with_many_functions_a_share_of_them_runs_at_once() -> None:
    rollouts: Rollouts[int] = Rollouts()
    assert sum(rollouts.may_start(key, 2_000, 0) for key in range(2_000)) == 100


def test_one_that_runs_may_be_written_again() -> None:
    rollouts: Rollouts[int] = Rollouts()
    assert all(rollouts.may_start(1, 1, moment) for moment in range(100))


def test_rollouts_that_do_not_end_hold_up_the_others_for_a_time_only() -> None:
    rollouts: Rollouts[int] = Rollouts()
    for key in range(20):
        rollouts.may_start(key, 20, 0)
    assert rollouts.due(20, MOST_SECONDS - 1) == []
    assert rollouts.due(20, MOST_SECONDS) == list(range(LEAST_AT_ONCE, 2 * LEAST_AT_ONCE))


def test_a_function_that_goes_waits_no_more() -> None:
    rollouts: Rollouts[int] = Rollouts()
    for key in range(LEAST_AT_ONCE + 1):
        rollouts.may_start(key, 1, 0)
    rollouts.ended(LEAST_AT_ONCE)
    assert rollouts.waiting == 0
