"""A full inbox is one problem, however many events fit at times."""

import pytest

from trigger_sources.context import SourceError
from trigger_sources.http.inbox_health import STEADY_SECONDS, InboxHealth
from trigger_sources.testing import StandInContext

FULL = SourceError("BacklogFull", "100 accepted events wait")
AWAY = SourceError("StoreUnavailable", "no answer")


def test_a_backlog_that_takes_some_events_and_refuses_others_is_full_all_the_time() -> None:
    now, context = 0.0, StandInContext()
    health = InboxHealth(context, lambda: now)
    for _ in range(50):  # as many events come as there is room for, and a few more
        health.failed("keep", FULL)
        now += 1
        health.worked("keep")
    assert {connected for connected, _, _ in context.reports} == {False}
    now += STEADY_SECONDS
    health.worked("keep")
    assert context.reports[-1] == (True, "", "")


def test_both_steps_have_to_work() -> None:
    now, context = 0.0, StandInContext()
    health = InboxHealth(context, lambda: now)
    health.failed("keep", FULL)
    health.failed("take", AWAY)
    now += STEADY_SECONDS
    health.worked("keep")
    assert context.reports[-1] == (False, "StoreUnavailable", "no answer")
    health.worked("take")
    assert context.reports[-1] == (True, "", "")
    reported = len(context.reports)
    health.worked("take")
    health.worked("keep")
    assert len(context.reports) == reported


def test_a_fault_of_the_inbox_is_reported_with_its_type_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    context = StandInContext()
    InboxHealth(context).failed("keep", KeyError("bytes"))
    assert context.reports == [(False, "InboxFails", "KeyError: 'bytes'")]
    assert caplog.records[-1].exc_info is not None
