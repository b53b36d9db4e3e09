"""The chart with namespaces of Secrets that come and go."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from servers.helm import RELEASE, installed, release, server_for_the_chart
from servers.kubernetes import APIServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

VALUES = {"secretNamespaces": ["apps", "team-x"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[APIServer]:
    async with server_for_the_chart() as found:
        yield found


async def granted(server: APIServer) -> tuple[list[str], str]:
    """The namespaces with the Role for Secrets, and those that a controller has in its environment."""
    roles: Any = json.loads(await server.kubectl("get", "roles", "-A", "-o", "json"))
    names = [one["metadata"]["namespace"] for one in roles["items"] if one["metadata"]["name"] == "kubeirq-secrets"]
    found = json.loads(await server.kubectl("get", "deployment", "kubeirq-nats", "-n", RELEASE, "-o", "json"))
    (container,) = found["spec"]["template"]["spec"]["containers"]
    values = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    return sorted(names), values["KUBEIRQ_SECRET_NAMESPACES"]


async def test_an_upgrade_works_after_a_namespace_is_gone_and_finds_it_when_it_is_back(server: APIServer) -> None:
    await server.kubectl("create", "namespace", "team-x")
    async with installed(server, VALUES):
        assert await granted(server) == (["apps", "team-x"], "apps team-x")
        await server.kubectl("delete", "namespace", "team-x", "--wait", "--timeout=60s")
        notes = await release(server, "upgrade", VALUES)
        assert "there is no namespace team-x" in " ".join(notes.split())
        assert await granted(server) == (["apps"], "apps")
        await server.kubectl("create", "namespace", "team-x")
        notes = await release(server, "upgrade", VALUES)
        assert "there is no namespace" not in " ".join(notes.split())
        assert await granted(server) == (["apps", "team-x"], "apps team-x")
