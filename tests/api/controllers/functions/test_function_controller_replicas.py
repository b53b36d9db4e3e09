"""Two replicas of the Function controller: one writes, and the other takes over."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from servers.controllers import SYSTEM, Cluster, cluster, condition, resource
from servers.kubernetes import APIServer


def function(name: str) -> dict[str, Any]:
    return resource("Function", name, {"source": {"inline": "def handler(event, context): pass"}})


async def leader_of(it: Cluster) -> str:
    lease = await it.get("lease", "kubeirq-functions", SYSTEM)
    return str(lease["spec"].get("holderIdentity") or "") if lease else ""


@pytest.mark.timeout(150)
async def test_one_replica_writes_and_the_other_takes_over_when_it_is_killed(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        replicas = {}
        for name in ("one", "two"):
            login = await it.server.kubeconfig_of(f"replica-{name}", "system:masters")
            found = await it.start("functions", replica=name, KUBECONFIG=str(login))
            replicas[found.environment["KUBEIRQ_REPLICA"]] = found
        await it.apply(*(function(f"f{number}") for number in range(5)))
        for number in range(5):
            await it.until("function", f"f{number}", lambda found: condition(found)["status"])
        first = await leader_of(it)
        await replicas[first].kill()
        await it.apply(function("later"))
        await it.until("function", "later", lambda found: condition(found)["status"], 40)
        second = await leader_of(it)
        assert second in replicas
        assert second != first

        writes = [
            event["user"]["username"]
            for event in it.server.writes()
            if event["user"]["username"].startswith("replica-") and event["objectRef"]["resource"] != "leases"
        ]
        assert sorted(writes, key=f"replica-{first[-3:]}".__ne__) == writes, "never both in turn"
        assert len(set(writes)) == 2
        await replicas[second].stop()
        assert await leader_of(it) == "", "a replica that stops in order gives the Lease back"


@pytest.mark.timeout(150)
async def test_at_rest_two_replicas_write_nothing_but_one_renewal_after_the_other(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        for name in ("one", "two"):
            login = await it.server.kubeconfig_of(f"replica-{name}", "system:masters")
            await it.start("functions", replica=name, KUBECONFIG=str(login))
        await it.apply(*(function(f"f{number}") for number in range(5)))
        for number in range(5):
            await it.until("function", f"f{number}", lambda found: condition(found)["status"])

        def written() -> list[dict[str, Any]]:
            return [event for event in it.server.writes() if event["user"]["username"].startswith("replica-")]

        def is_renewal(event: dict[str, Any]) -> bool:
            return (event["verb"], event["objectRef"]["name"]) == ("update", "kubeirq-functions")

        async with asyncio.timeout(60):
            while True:  # the deployments' own status settles
                before = len(written())
                await asyncio.sleep(6)
                if all(map(is_renewal, written()[before:])):
                    break
        before = len(written())
        await asyncio.sleep(20)
        news = written()[before:]
        assert [event["objectRef"] for event in news if not is_renewal(event)] == []
        assert 3 <= len(news) <= 5
        assert len({event["user"]["username"] for event in news}) == 1
