"""The fields of a trigger's spec that `kubeirq describe` shows."""

import pytest

from kubeirq.output.spec_lines import spec_lines


def test_a_schedule_has_its_zone_and_its_next_runs_in_that_zone_and_in_utc() -> None:
    spec = {"schedule": "0 6 * * *", "timeZone": "America/New_York", "concurrency": 16}
    lines = spec_lines("CronTrigger", spec, ["2026-11-28T11:00:00Z"])
    assert lines == [
        "  schedule   0 6 * * * in America/New_York",
        "  next runs  Sat 28 Nov 06:00 America/New_York (11:00 UTC)",
        "  calls with concurrency 16",
    ]


def test_the_day_in_utc_is_there_if_it_is_another_one() -> None:
    (_, runs) = spec_lines("CronTrigger", {"schedule": "x", "timeZone": "Asia/Tokyo"}, ["2026-11-27T21:00:00Z"])
    assert runs == "  next runs  Sat 28 Nov 06:00 Asia/Tokyo (Fri 21:00 UTC)"


@pytest.mark.parametrize("zone", ["Nowhere/Land", "../etc"])
def test_a_zone_that_this_machine_does_not_know_leaves_the_times_as_they_are(zone: str) -> None:
    (_, runs) = spec_lines("CronTrigger", {"schedule": "x", "timeZone": zone}, ["2026-11-27T21:00:00Z"])
    assert runs == "  next runs  2026-11-27T21:00:00Z"


def test_each_kind_says_what_it_takes_and_how_it_filters() -> None:
    kafka = {"topics": ["a", "b"], "filter": "data.x\n  == 1", "ordering": "key", "delivery": {"onFailure": "park"}}
    assert spec_lines("KafkaTrigger", kafka) == [
        "  takes      topics a b",
        "  filter     data.x == 1",
        "  calls with ordering key",
        "  on failure onFailure park",
    ]
    nats = {"subject": "orders.>", "mode": "jetstream", "stream": "s", "durable": "d"}
    assert spec_lines("NATSTrigger", nats) == ["  takes      subject orders.>, mode jetstream, stream s, durable d"]
    http = {"methods": ["GET", "PUT"], "path": "/p", "host": "h"}
    assert spec_lines("HTTPTrigger", http) == ["  route      GET, PUT /p on host h"]


def test_a_long_filter_is_cut_and_a_kind_of_a_plugin_needs_no_fields() -> None:
    (line,) = spec_lines("ListTrigger", {"filter": "x" * 5000})
    assert len(line) < 600
    assert spec_lines("ListTrigger", {}) == []
