"""New images roll out a few Functions at a time. An author's own edit does not wait for them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from servers.controllers import Cluster, cluster, condition, resource
from servers.kubernetes import APIServer

from controllers.functions.rollouts import LEAST_AT_ONCE

NAMES = [f"f{number}" for number in range(LEAST_AT_ONCE + 3)]


def function(name: str, **spec: Any) -> dict[str, Any]:
    return resource("Function", name, {"source": {"inline": "def handler(event, context): ..."}, **spec})


def image_of(deployment: Any) -> str:
    return str(deployment["spec"]["template"]["spec"]["initContainers"][0]["image"])


async def with_image(it: Cluster, image: str) -> set[str]:
    found = await it.get("deployment")
    return {item["metadata"]["name"] for item in found["items"] if image_of(item) == image}


async def until_with_image(it: Cluster, image: str, count: int) -> set[str]:
    async with asyncio.timeout(40):
        while len(found := await with_image(it, image)) < count:
            await asyncio.sleep(0.1)
    return found


def new_pods_of(found: Any, name: str) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in found["items"]
        if pod["metadata"]["labels"]["kubeirq.dev/function"] == name
        and pod["spec"]["initContainers"][0]["image"] == "runtimes:2"
    ]


async def make_ready(it: Cluster, name: str) -> None:
    """Stands in for the nodes: the new pod of the function becomes ready."""
    found = await it.until("pod", "", lambda found: new_pods_of(found, name))
    status = json.dumps({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
    (pod,) = new_pods_of(found, name)
    await it.server.kubectl("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", status)


@pytest.mark.timeout(180)
async def test_new_images_roll_out_a_few_functions_at_a_time(kubernetes: APIServer, tmp_path: Path) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        controller = await it.start("functions", KUBEIRQ_NAMESPACE="")
        await it.apply(*map(function, NAMES))
        for name in NAMES:
            await it.until("function", name, lambda found: condition(found)["status"])
        assert await with_image(it, "runtimes:1") == set(NAMES)
        await controller.kill()
        controller.environment["KUBEIRQ_RUNTIME_IMAGE"] = "runtimes:2"
        await controller.start()

        started = await until_with_image(it, "runtimes:2", LEAST_AT_ONCE)
        waiting = sorted(set(NAMES) - started)
        await it.apply(function(waiting[0], timeoutSeconds=7))
        await it.until("deployment", waiting[0], lambda found: image_of(found) == "runtimes:2")
        assert await with_image(it, "runtimes:2") == {*started, waiting[0]}, "the others wait for room"
        assert "rollouts are paced" in controller.log.read_text()

        await make_ready(it, sorted(started)[0])
        assert len(await until_with_image(it, "runtimes:2", LEAST_AT_ONCE + 2)) == LEAST_AT_ONCE + 2
