"""What an answer means, when to try again, and when to stop trying everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.delivery import Answer
from trigger_sources.dispatch.retry import FailureRun, delay_after, reason_to_give_up, retry_after_of, verdict_on
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


def test_attempts_and_age_limit_the_tries() -> None:
    policy = DeliveryPolicy(attempts=3, max_age_seconds=100)
    assert reason_to_give_up(policy, 2, 0, 50) is None
    assert reason_to_give_up(policy, 3, 0, 50) == "AttemptsExhausted"
    assert reason_to_give_up(policy, 2, 0, 101) == "TooOld"
    assert reason_to_give_up(DeliveryPolicy(max_age_seconds=None), 10**6, 0, 1e9) is None


def test_twenty_failures_in_a_row_over_three_lanes_are_everything() -> None:
    run = FailureRun(20)
    for number in range(20):
        assert not run.everything_fails
        run.failed(number % 3)
    assert run.everything_fails
    run.succeeded()
    assert not run.everything_fails


def test_one_poison_lane_is_never_everything() -> None:
    run = FailureRun(20)
    for _ in range(1_000):
        run.failed("poison")
    assert not run.everything_fails


def test_a_success_in_between_starts_the_count_anew() -> None:
    run = FailureRun(3)
    for lane in ("a", "b"):
        run.failed(lane)
    run.succeeded()
    for lane in ("c", "d"):
        run.failed(lane)
    assert not run.everything_fails
