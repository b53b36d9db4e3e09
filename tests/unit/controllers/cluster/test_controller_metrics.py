"""The metrics of controllers, as a scraper reads them."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controllers.cluster.metrics import Count, Durations, Gauge, controller_metrics, labels_of, resource_of
from controllers.cluster.work_queue import WorkQueue
from trigger_sources.observe.metrics import Metric, exposition


def values_of(*metrics: Metric) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(exposition([], metrics))
    return {(s.name, tuple(s.labels.items())): s.value for family in families for s in family.samples}


def test_a_histogram_counts_each_duration_in_its_bucket_and_all_above() -> None:
    durations = Durations("d", "text")
    for seconds in (0.001, 0.01, 0.02, 100.0):
        durations.add(seconds, queue="a")
    values = values_of(durations.metric())
    assert values["d_bucket", (("queue", "a"), ("le", "0.005"))] == 1
    assert values["d_bucket", (("queue", "a"), ("le", "0.01"))] == 2
    assert values["d_bucket", (("queue", "a"), ("le", "30.0"))] == 3
    assert values["d_bucket", (("queue", "a"), ("le", "+Inf"))] == values["d_count", (("queue", "a"),)] == 4
    assert values["d_sum", (("queue", "a"),)] == pytest.approx(100.031)


def test_counts_and_gauges_have_their_labels() -> None:
    count, gauge = Count("c_total", "text"), Gauge("g", "text", "queue")
    count.add(status="409")
    count.add(status="409")
    gauge.read("a", lambda: 0.25)
    assert values_of(count.metric(), gauge.metric()) == {
        ("c_total", (("status", "409"),)): 2,
        ("g", (("queue", "a"),)): 0.25,
    }


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/api/v1/configmaps", "configmaps"),
        ("/api/v1/namespaces", "namespaces"),
        ("/api/v1/namespaces/shop", "namespaces"),
        ("/api/v1/namespaces/shop/configmaps/code", "configmaps"),
        ("/apis/apps/v1/deployments", "deployments"),
        ("/apis/kubeirq.dev/v1/namespaces/shop/functions/pay/status", "functions"),
        ("/version", ""),
    ],
)
def test_a_request_is_counted_by_its_resource(path: str, resource: str) -> None:
    assert resource_of(path) == resource
    assert labels_of("GET", path) == {"method": "GET", "resource": resource}


async def test_a_queue_counts_its_reconciles_failures_and_depth() -> None:
    async def reconcile(key: str) -> None:
        if key == "bad":
            raise OSError("the server is away")

    queue = WorkQueue(reconcile, name="of this test", expected=(OSError,))
    for key in ("good", "bad"):
        queue.add(key)
    labels = (("queue", "of this test"),)
    assert values_of(*controller_metrics())["kubeirq_queue_depth", labels] == 2
    task = asyncio.create_task(queue.run())
    await queue.wait_until_idle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    values = values_of(*controller_metrics())
    assert values["kubeirq_queue_depth", labels] == 0
    assert values["kubeirq_reconcile_seconds_count", labels] == 2
    assert values["kubeirq_reconcile_errors_total", labels] == 1
