"""The meaning of an answer, the time of the next attempt, and the end of all attempts."""

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.delivery import Answer
from trigger_sources.dispatch.retry import (
    FailureRun,
    Verdict,
    after_failure,
    delay_after,
    retry_after_of,
    verdict_on,
    within_age,
)
from trigger_sources.spec import DeliveryPolicy


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ((200, 201, 202, 204, 299), "delivered"),
        ((408, 409, 425, 429, 500, 502, 503, 504, 599), "retry"),
        ((301, 302, 307, 400, 401, 403, 404, 405, 410, 413, 415, 422, 451), "permanent"),
    ],
)
def test_every_status_has_one_meaning(statuses: tuple[int, ...], verdict: str) -> None:
    assert {verdict_on(status) for status in statuses} == {verdict}


@given(attempts=st.integers(1, 10_000), jitter=st.floats(0, 1))
def test_a_delay_never_exceeds_its_bound(attempts: int, jitter: float) -> None:
    policy = DeliveryPolicy(backoff_seconds=0.5, backoff_max_seconds=60)
    assert 0 <= delay_after(attempts, policy, jitter) <= min(60, 0.5 * 2 ** min(attempts - 1, 30))


def test_delays_double_up_to_the_maximum() -> None:
    policy = DeliveryPolicy(backoff_seconds=0.5, backoff_max_seconds=3)
    assert [delay_after(attempts, policy, 1.0) for attempts in range(1, 6)] == [0.5, 1, 2, 3, 3]


def test_retry_after_is_kept_and_bounded_to_an_hour() -> None:
    policy = DeliveryPolicy()
    assert 7 <= delay_after(1, policy, 0.5, 7.0) <= 8
    assert delay_after(1, policy, 0.5, 1e9) <= 3_601


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 3 ", 3.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("99999999999999999999", None),
        ("٣", None),
        ("", None),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_nonsense_is_ignored(text: str, seconds: float | None) -> None:
    answer = Answer(503, [("retry-after", text)])
    assert retry_after_of(answer, now=10.0) == seconds


@pytest.mark.parametrize(
    ("verdict", "attempts", "age", "following"),
    [
        ("retry", 1, 0.0, 0.25),
        ("retry", 2, 10.0, 0.5),
        ("retry", 2, 99.9, 0.1),  # the last attempt is made at the age limit
        ("retry", 3, 0.0, "AttemptsExhausted"),
        ("retry", 2, 100.0, "TooOld"),
        ("permanent", 1, 0.0, "PermanentAnswer"),
        ("permanent", 3, 200.0, "PermanentAnswer"),
    ],
)
def test_after_a_failure_comes_another_attempt_or_a_reason(
    verdict: Verdict, attempts: int, age: float, following: float | str
) -> None:
    policy = DeliveryPolicy(attempts=3, max_age_seconds=100, backoff_seconds=0.5)
    found = after_failure(policy, verdict, attempts, 1000.0, 1000.0 + age, 0.5, None)
    assert found == (pytest.approx(following) if isinstance(following, float) else following)


@given(
    max_age=st.floats(0.01, 1e6), attempts=st.integers(1, 100), age=st.floats(0, 2e6), jitter=st.floats(0, 1),
    retry_after=st.none() | st.floats(0, 1e6),
)  # fmt: skip
def test_the_last_attempt_is_made_at_the_age_limit_and_not_given_up_before_it(
    max_age: float, attempts: int, age: float, jitter: float, retry_after: float | None
) -> None:
    policy = DeliveryPolicy(max_age_seconds=max_age)
    wanted = delay_after(attempts, policy, jitter, retry_after)
    found = within_age(policy, 0.0, age, wanted)
    if found is None:
        assert age >= max_age - 0.01
    else:
        assert 0 <= found <= wanted
        assert age + found <= max_age * 1.000001
        assert found == wanted or age + found == pytest.approx(max_age)


def test_a_retry_after_of_an_hour_costs_no_event_that_is_younger_than_an_hour() -> None:
    policy = DeliveryPolicy()
    assert policy.max_age_seconds == 3600
    wanted = delay_after(1, policy, 0.5, 3600)
    assert within_age(policy, 1000.0, 1000.2, wanted) == pytest.approx(3599.8)
    assert within_age(policy, 1000.0, 4600.1, wanted) is None


def test_without_an_age_limit_nothing_is_too_old() -> None:
    assert within_age(DeliveryPolicy(max_age_seconds=None), 0, 1e9, 7.0) == 7.0


def none_are_held(lanes: set[Hashable]) -> bool:
    return False


def others_are_held(lanes: set[Hashable]) -> bool:
    return True


def test_twenty_failures_in_a_row_over_three_lanes_are_everything() -> None:
    run = FailureRun(20)
    for number in range(20):
        assert not run.everything_fails(none_are_held)
        run.failed(number % 3)
    assert run.everything_fails(others_are_held)
    run.succeeded()
    assert not run.everything_fails(none_are_held)


@pytest.mark.parametrize("lanes", [1, 2])
def test_with_fewer_lanes_everything_fails_only_where_the_trigger_has_no_others(lanes: int) -> None:
    """Ordering by partition, one key, or one subject: a bad deploy must not empty them either."""
    run = FailureRun(20)
    for number in range(20):
        run.failed(number % lanes)
    assert run.everything_fails(none_are_held)
    assert not run.everything_fails(others_are_held)


def test_a_success_in_between_starts_the_count_anew() -> None:
    run = FailureRun(3)
    for lane in ("a", "b"):
        run.failed(lane)
    run.succeeded()
    for lane in ("c", "d"):
        run.failed(lane)
    assert not run.everything_fails(none_are_held)
