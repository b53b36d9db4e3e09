"""A problem stands from a number of failures on, until its piece of work ends."""

import asyncio

import pytest

from trigger_sources.dispatch.standing import StandingProblems


def test_a_problem_is_shown_from_a_number_of_failures_on_with_the_last_words_of_the_work() -> None:
    problems = StandingProblems(shown_after=3)
    with problems.work() as tries:
        shown = []
        for number in range(1, 5):
            tries.failed(f"problem {number}")
            shown.append(problems.newest)
        assert tries.failures == 4
    assert shown == ["", "", "problem 3", "problem 4"]
    assert problems.newest == ""


def test_work_that_succeeds_hides_no_problem_of_other_work() -> None:
    problems = StandingProblems()
    with problems.work() as stuck:
        stuck.failed("no broker")
        with problems.work() as other:
            other.failed("too large")
            assert problems.newest == "too large"
        with problems.work():
            pass
        assert problems.newest == "no broker"
    assert problems.newest == ""


@pytest.mark.parametrize("end", [ValueError("refused"), asyncio.CancelledError()])
def test_work_that_is_refused_or_cancelled_has_no_problem_any_more(end: BaseException) -> None:
    problems = StandingProblems()
    with pytest.raises(type(end)), problems.work() as tries:
        tries.failed("no broker")
        raise end
    assert problems.newest == ""
