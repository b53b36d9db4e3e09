"""The metrics as a Prometheus scraper reads them."""

from prometheus_client.parser import text_string_to_metric_families

from trigger_sources.dispatch.counters import Counters, Reading
from trigger_sources.observe.metrics import exposition


def reading(trigger: str, counters: Counters) -> Reading:
    labels = {"kind": "KafkaTrigger", "namespace": "default", "trigger": trigger, "function": 'a "quoted" one\n'}
    return Reading(
        labels, counters, 3, {"running": 2, "retrying": 1}, True, False, 1.5, 4, 100, None, 7, "MessagesDeleted"
    )


def test_a_scraper_reads_back_the_counts() -> None:
    counters = Counters()
    counters.received = 5
    counters.settled("delivered")
    counters.settled("deadLettered")
    for seconds in (0.0004, 0.02, 99.0):
        counters.attempt(seconds)
    families = {
        family.name: family
        for family in text_string_to_metric_families(exposition([reading("a", counters), reading("b", Counters())]))
    }
    assert len(families) == len({family.name for family in families.values()}), "each metric once"

    def value(family: str, name: str, **labels: str) -> float:
        (found,) = [
            sample.value
            for sample in families[family].samples
            if sample.name == name and sample.labels["trigger"] == "a" and labels.items() <= sample.labels.items()
        ]
        return found

    assert value("kubeirq_events_received", "kubeirq_events_received_total") == 5
    assert value("kubeirq_events_delivered", "kubeirq_events_delivered_total") == 1
    assert value("kubeirq_events_dead_lettered", "kubeirq_events_dead_lettered_total") == 1
    assert value("kubeirq_attempt_seconds", "kubeirq_attempt_seconds_bucket", le="0.0005") == 1
    assert value("kubeirq_attempt_seconds", "kubeirq_attempt_seconds_bucket", le="0.025") == 2
    assert value("kubeirq_attempt_seconds", "kubeirq_attempt_seconds_bucket", le="+Inf") == 3
    assert value("kubeirq_attempt_seconds", "kubeirq_attempt_seconds_count") == 3
    assert value("kubeirq_held_events_by_state", "kubeirq_held_events_by_state", state="retrying") == 1
    assert value("kubeirq_lag_events", "kubeirq_lag_events") == 100
    assert value("kubeirq_uncommitted_events", "kubeirq_uncommitted_events") == 7
    assert value("kubeirq_source_reason", "kubeirq_source_reason", reason="MessagesDeleted") == 1
    assert families["kubeirq_lag_seconds"].samples == [], "an unknown lag is not shown as a number"
    labels = families["kubeirq_held_events"].samples[0].labels
    assert labels["function"] == 'a "quoted" one\n'


def test_no_triggers_are_an_empty_but_valid_exposition() -> None:
    assert [family.samples for family in text_string_to_metric_families(exposition([])) if family.samples] == []
