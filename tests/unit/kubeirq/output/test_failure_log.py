"""The log of failures: each new one at once, the repeats of a period in one line, and bounded."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kubeirq.output.failure_log import FailureLog
from trigger_sources.dispatch.held import Seen

ERROR = "status 500: KeyError: 'kind' (orders.py:3 in handler)"


def seen(what: str = "retry", message: str = ERROR, **rest: Any) -> Seen:
    fields = {"at": 0.0, "kind": "KafkaTrigger", "trigger": "orders", "function": "invoice", "event_id": "c/orders/0/7"}
    return Seen(**{**fields, "what": what, "message": message, **rest})


class Written(list[tuple[int, dict[str, Any]]]):
    def take(self) -> list[tuple[Any, ...]]:
        found = [(line["outcome"], line["problem"], line.get("repeats")) for _, line in self]
        self.clear()
        return found


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
async def failures(written: Written) -> AsyncIterator[FailureLog]:
    found = FailureLog(lambda level, line: written.append((level, line)))
    yield found
    found.close()


async def test_a_failure_is_a_line_with_the_event_and_the_cause(failures: FailureLog, written: Written) -> None:
    failures(seen("delivered", ""))
    failures(seen("filtered", ""))
    failures(seen(attempt=2, namespace="shop"))
    failures(seen("deadLettered", f"PermanentAnswer: {ERROR}", attempt=3))
    assert written == [
        (
            logging.WARNING,
            {
                "trigger": "shop/orders", "function": "invoice", "event": "c/orders/0/7", "outcome": "attempt failed",
                "attempt": 2, "problem": ERROR,
            },
        ),
        (
            logging.ERROR,
            {
                "trigger": "default/orders", "function": "invoice", "event": "c/orders/0/7", "outcome": "dead-lettered",
                "attempt": 3, "problem": f"PermanentAnswer: {ERROR}",
            },
        ),
    ]  # fmt: skip


async def test_a_caller_that_was_refused_is_told_from_one_whose_call_failed(
    failures: FailureLog, written: Written
) -> None:
    failures(seen("answered", "FunctionDown: its process is starting"))
    failures(seen("answered", "NoAnswer: the worker process ended with exit code 7 while it ran this event"))
    assert [line[0] for line in written.take()] == ["refused", "answered with a failure"]


async def test_repeats_are_summed_up_at_the_end_of_each_period(failures: FailureLog, written: Written) -> None:
    for number in range(1_000):
        failures(seen(again_seconds=number / 7))
    assert written.take() == [("attempt failed", ERROR, None)]
    failures.end_period()
    assert written.take() == [("attempt failed", ERROR, 999)]
    failures(seen())
    assert written.take() == [], "it is no new failure"
    failures.end_period()
    assert written.take() == [("attempt failed", ERROR, 1)]
    failures.end_period()
    failures(seen())
    assert written.take() == [("attempt failed", ERROR, None)], "after a period without it, it is new"


async def test_failures_of_many_kinds_are_bounded_and_hide_no_other_trigger(
    failures: FailureLog, written: Written
) -> None:
    for number in range(5_000):
        failures(seen(message=f"status 500: KeyError: {number}"))
    failures(seen(trigger="other"))
    assert len(written) == 11
    assert written.take()[-1] == ("attempt failed", ERROR, None)
    failures.end_period()
    assert written.take() == [("attempt failed", "status 500: KeyError: 4999", 4_990)]


async def test_the_end_of_the_fabric_logs_what_is_left(failures: FailureLog, written: Written) -> None:
    failures(seen())
    failures(seen())
    failures.close()
    assert written.take() == [("attempt failed", ERROR, None), ("attempt failed", ERROR, 1)]
