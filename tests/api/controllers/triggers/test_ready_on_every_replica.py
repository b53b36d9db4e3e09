"""Ready of a trigger is about every replica: after `kubectl wait`, none of them serves the former spec."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from servers.controllers import Cluster, cluster, condition, holder_of, resource
from servers.kubernetes import APIServer
from servers.live_edits import is_ready
from servers.relay import Relay, relay
from servers.replicas import Replicas, replicas
from servers.scripted import Answer, Call, scripted

pytestmark = pytest.mark.timeout(300)

LATE_SECONDS = 0.3  # of everything between one replica and the API server
EDITS = 12
SECONDS = 60.0  # on a busy machine


async def test_no_replica_serves_the_former_spec_after_ready(kubernetes: APIServer, tmp_path: Path) -> None:
    """One replica hears of every edit later than the other, and each of the triggers is edited again and again."""
    async with cluster(kubernetes, tmp_path) as it, pair(it) as (both, function, _), aiohttp.ClientSession() as client:

        async def edit_again_and_again(name: str) -> list[str]:
            wrong = []
            for number in range(EDITS):
                path = f"/{name}/{number}"
                await patched(it, name, {"url": function, "path": path})
                await until(it, name, is_ready)
                for gateway in both.gateways():
                    async with client.post(gateway + path) as answer:
                        if answer.status != 200:
                            wrong.append(f"{gateway}{path}: {answer.status}")
            return wrong

        names = [f"t{number}" for number in range(3)]
        await it.apply(*(resource("HTTPTrigger", name, {"url": function}) for name in names))
        found = await asyncio.gather(*(edit_again_and_again(name) for name in names))
        assert [wrong for each in found for wrong in each] == []


async def test_a_replica_that_hangs_keeps_an_edit_from_ready_and_is_named(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it, pair(it) as (both, function, _), aiohttp.ClientSession() as client:
        await it.apply(resource("HTTPTrigger", "orders", {"url": function}))
        before = await until(it, "orders", is_ready)
        holder = await holder_of(it, "HTTPTrigger", "orders")
        (hung,) = [found for found in both.running.values() if found.environment["KUBEIRQ_REPLICA"] != holder]
        assert hung.process is not None
        hung.process.send_signal(signal.SIGSTOP)
        try:
            await patched(it, "orders", {"path": "/new"})
            found = await until(it, "orders", lambda found: condition(found)["reason"] == "ReplicaSilent")
            ready = condition(found)
            assert ready["status"] == "Unknown", ready
            name = re.escape(hung.environment["KUBEIRQ_REPLICA"])
            assert re.match(rf"replica {name} at \S+ has not said since \S+Z what it serves: ", ready["message"]), ready
            assert condition(found, "Reconciling")["status"] == "True"
            assert found["status"]["observedGeneration"] == before["metadata"]["generation"], "that of the former spec"
        finally:
            hung.process.send_signal(signal.SIGCONT)
        await until(it, "orders", is_ready)
        for gateway in both.gateways():
            async with client.post(f"{gateway}/new") as answer:
                assert answer.status == 200


async def test_a_replica_that_gets_no_requests_keeps_no_edit_from_ready(kubernetes: APIServer, tmp_path: Path) -> None:
    async with cluster(kubernetes, tmp_path) as it, pair(it) as (both, function, _):
        await it.apply(resource("HTTPTrigger", "orders", {"url": function}))
        await until(it, "orders", is_ready)
        holder = await holder_of(it, "HTTPTrigger", "orders")
        (name,) = [name for name, found in both.running.items() if found.environment["KUBEIRQ_REPLICA"] != holder]
        await both.running[name].kill()
        await patched(it, "orders", {"path": "/new"})
        await until(it, "orders", lambda found: condition(found)["reason"] == "ReplicaSilent")
        await both.list_as(name, is_ready=False, port=both.running[name].port("KUBEIRQ_ADMIN_PORT"))
        await until(it, "orders", is_ready)


async def test_a_replica_of_a_former_version_is_named_and_takes_ready_back_from_no_trigger(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it, pair(it) as (both, function, _):
        await it.apply(*(resource("HTTPTrigger", name, {"url": function}) for name in ("kept", "edited")))
        for name in ("kept", "edited"):
            await until(it, name, is_ready)
        await both.list_as("old", is_ready=True, port=None)
        await patched(it, "edited", {"path": "/new"})
        found = await until(it, "edited", lambda found: condition(found)["reason"] == "ReplicaSilent")
        assert "replica trigger-http-old is of a version that does not say" in condition(found)["message"]
        assert is_ready(await it.get("httptrigger", "kept"))
        await it.server.kubectl("delete", "endpointslice", "kubeirq-admin-old", "--namespace=kubeirq-system")
        await until(it, "edited", is_ready)


async def test_a_replica_to_which_the_function_is_down_keeps_the_trigger_from_ready(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    """One replica does not hear that the function has a ready endpoint. If it holds the Lease, the other gets it."""
    async with cluster(kubernetes, tmp_path) as it, pair(it) as (_, _, late):
        await it.apply(resource("Function", "f", {"source": {"inline": "def handler(event, context): pass"}}))
        await it.apply(resource("HTTPTrigger", "orders", {"function": "f"}))
        await until(it, "orders", lambda found: condition(found)["reason"] == "FunctionDown")
        late.swallows = True
        await it.apply(endpoint_of("f"))
        said = "replica trigger-http-two: f: no replica is ready"
        found = await until(it, "orders", lambda found: condition(found).get("message") == said)
        assert condition(found)["reason"] == "FunctionDown"
        late.swallows = False
        await late.cut()
        await until(it, "orders", is_ready)


async def test_requests_without_the_replicas_token_are_refused(kubernetes: APIServer, tmp_path: Path) -> None:
    async with cluster(kubernetes, tmp_path) as it, aiohttp.ClientSession() as client:
        both = await replicas(it, "http")
        found = await both.start("one", KUBEIRQ_ADMIN_USERS="false")
        await until_ready(it)
        url = f"https://127.0.0.1:{found.port('KUBEIRQ_ADMIN_PORT')}"
        for headers in ({}, {"kubeirq-replica-token": "0" * 64}):
            async with client.get(f"{url}/v1/served", headers=headers, ssl=False) as answer:
                assert answer.status == 401
        async with client.get(f"{url}/v1/replicas", ssl=False) as answer:
            assert answer.status == 404, "without users there is no admin API"


# --- helpers


@asynccontextmanager
async def pair(it: Cluster) -> AsyncIterator[tuple[Replicas, str, Relay]]:
    """Two replicas, of which the second is behind a slow relay to the API server, and the URL of a function."""

    async def decide(call: Call) -> Answer:
        return 200

    both = await replicas(it, "http")
    async with scripted(decide) as function, relay(it.server.port, delay_seconds=LATE_SECONDS) as late:
        login = it.folder / "late.kubeconfig"
        text = it.server.kubeconfig.read_text()
        login.write_text(text.replace(it.server.url, f"https://127.0.0.1:{late.port}"))
        await both.start("one")
        await both.start("two", KUBECONFIG=str(login))
        await until_ready(it)
        yield both, function.url, late


async def until(it: Cluster, name: str, holds: Callable[[Any], Any]) -> Any:
    return await it.until("httptrigger", name, holds, SECONDS)


async def until_ready(it: Cluster) -> None:
    async with aiohttp.ClientSession() as client, asyncio.timeout(SECONDS):
        for found in it.controllers:
            while True:
                try:
                    async with client.get(f"http://127.0.0.1:{found.port('KUBEIRQ_PORT')}/readyz") as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientConnectorError:
                    pass
                await asyncio.sleep(0.05)


async def patched(it: Cluster, name: str, spec: dict[str, Any]) -> None:
    path = f"/apis/kubeirq.dev/v1/namespaces/default/httptriggers/{name}"
    await it.api.request("PATCH", path, body={"spec": spec}, content_type="application/merge-patch+json")


def endpoint_of(function: str) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": function, "kubeirq.dev/function": function}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": function, "namespace": "default", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": 8080}],
    }
