"""When a Function's pods are asked again: soon after something changed, seldom where nothing does."""

from datetime import UTC, datetime

import pytest

from controllers.functions.controller import requeue_after

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [([], 2), (["11:59:59"], 2), (["11:59:40"], 10), (["11:00:00", "11:59:40"], 10), (["08:00:00"], 60)],
)
def test_the_longer_a_deployment_has_said_nothing_new_the_later(changed: list[str], seconds: float) -> None:
    conditions = [{"type": "Progressing", "lastUpdateTime": f"2026-01-01T{time}Z"} for time in changed]
    assert requeue_after({"status": {"conditions": conditions}}, NOW) == seconds


def test_a_deployment_that_was_just_made_is_looked_at_soon() -> None:
    assert requeue_after({}, NOW) == 2
