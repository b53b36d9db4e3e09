"""The metrics that running controllers show."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers.controllers import Cluster, Controller, cluster, condition, resource
from servers.kubernetes import APIServer

Values = dict[str, list[tuple[dict[str, str], float]]]


async def values_of(controller: Controller) -> Values:
    """The labels and the value of each sample, by its name."""
    found: Values = {}
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{controller.environment['KUBEIRQ_PORT']}/metrics") as answer:
            text = await answer.text()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(values: Values, name: str, **labels: str) -> float:
    return sum(number for found, number in values.get(name, []) if labels.items() <= found.items())


async def until(it: Cluster, controller: Controller, holds: Any) -> Values:
    values: Values = {}
    try:
        async with asyncio.timeout(20):
            while not holds(values := await values_of(controller)):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{values}\n{it.logs()}") from None
    return values


@pytest.mark.timeout(120)
async def test_controllers_show_leader_queues_requests_watches_and_restarts(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        replicas = [await it.start("functions", replica=name) for name in ("one", "two")]
        await it.apply(resource("Function", "greet", {"source": {"inline": "def handler(event, context): ..."}}))
        await it.until("function", "greet", lambda found: condition(found)["status"])
        pods = await it.until("pod", "", lambda found: found["items"])
        container = {"name": "function", "image": "x", "imageID": "x", "ready": False, "restartCount": 4}
        ended = {"terminated": {"exitCode": 3, "reason": "Error"}}
        path = f"/api/v1/namespaces/default/pods/{pods['items'][0]['metadata']['name']}/status"
        status = {"status": {"containerStatuses": [{**container, "state": ended}]}}
        await it.api.request("PATCH", path, body=status, content_type="application/merge-patch+json")

        held = [value(await values_of(found), "kubeirq_leases_held", leases="kubeirq-functions") for found in replicas]
        assert sorted(held) == [0, 1]
        leader = replicas[held.index(1)]
        values = await until(it, leader, lambda values: value(values, "kubeirq_function_restarts"))
        assert values["kubeirq_function_restarts"] == [({"namespace": "default", "function": "greet"}, 4)]
        assert value(values, "kubeirq_functions") == 1
        assert value(values, "kubeirq_reconcile_seconds_count", queue="functions") >= 1
        assert value(values, "kubeirq_api_request_seconds_count", method="PATCH", resource="deployments") >= 1
        assert value(values, "kubeirq_watch_requests_total", resource="deployments") >= 1
        assert value(values, "kubeirq_watch_events_total", resource="functions") >= 1
        assert value(values, "process_resident_memory_bytes") > 10_000_000
        await until(it, leader, lambda values: value(values, "kubeirq_queue_depth", queue="functions") == 0)
