"""The addresses that triggers of a namespace may call, with names from a real cluster's DNS."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from servers.cluster import Namespace, function, keeping
from servers.fabric import manifest
from servers.recorded_calls import FUNCTION, count

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]


async def test_a_short_name_is_a_service_of_the_triggers_namespace_and_an_alias_of_another_is_refused(
    place: Namespace, tmp_path: Path
):
    await place.apply(function("ledger", FUNCTION, **keeping(tmp_path)))
    await place.until_ready("Function", "ledger")
    await place.apply(ticking("near", "http://ledger:8080/"))
    await place.until_it_holds(lambda: count(tmp_path / "ledger") > 0, "a call by a short name", 60)

    dns = "kube-dns.kube-system.svc"
    await place.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "alias"},
            "spec": {"type": "ExternalName", "externalName": f"{dns}.cluster.local"},
        },
        ticking("far", f"http://{dns}/"),
        ticking("around", "http://alias/"),
    )
    found = await place.until_condition("CronTrigger", "far", "Accepted", "OutOfReach")
    assert "a Service of another namespace, 'kube-system'" in found["message"]
    async with asyncio.timeout(60):
        found = {}
        while "a Service of another namespace, 'kube-system'" not in found.get("message", ""):
            found = await place.until_condition("CronTrigger", "around", "Delivering", "FunctionDown")
            await asyncio.sleep(0.5)


def ticking(name: str, url: str) -> dict[str, Any]:
    return manifest("CronTrigger", name, schedule="* * * * * *", url=url, payload={"key": "a", "n": 1})
