"""The runtime's own counts."""

from prometheus_client.parser import text_string_to_metric_families

from runtimes.python.kubeirq_runtime.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Values by the sample's name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }


def test_calls_failures_and_durations_are_counted_by_method() -> None:
    metrics = Metrics()
    metrics.count("POST", 0.25, failed=False)
    metrics.count("POST", 0.5, failed=True)
    metrics.count("GET", 1000.0, failed=False)

    found = samples(metrics)
    assert found["function_calls_total", "POST"] == 2
    assert found["function_failures_total", "POST"] == 1
    assert found["function_duration_seconds_sum", "POST"] == 0.75
    assert [found["function_duration_seconds_bucket", "POST", bound] for bound in ("0.1", "0.25", "0.5")] == [0, 1, 2]
    assert found["function_duration_seconds_bucket", "GET", "180.0"] == 0
    assert found["function_duration_seconds_bucket", "GET", "+Inf"] == 1


def test_methods_that_a_client_invents_share_one_label() -> None:
    metrics = Metrics()
    for method in ("BREW", "MELT"):
        metrics.count(method, 0.1, failed=False)

    assert samples(metrics)["function_calls_total", "OTHER"] == 2
