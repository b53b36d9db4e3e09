"""From the moment at which a trigger is Ready, every replica of its controller answers for it."""

import asyncio
from urllib.parse import urlsplit

import pytest
from servers.cluster import Cluster, Namespace, function
from servers.fabric import manifest
from servers.load import load

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]

TRIGGERS = 12
AT_ONCE = 3
ECHO = "def handler(event, context):\n    return 'echo'\n"


async def test_no_request_is_refused_after_a_new_trigger_is_ready(place: Namespace, cluster: Cluster):
    """Each trigger has a Function of its own, which starts meanwhile: routes, endpoints and proxies are all new."""
    host = urlsplit(await cluster.gateway()).hostname
    assert host is not None
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> list[str]:
        async with turns:
            await place.apply(
                function(name, ECHO), manifest("HTTPTrigger", name, function=name, path=f"/{place.name}/{name}")
            )
            await place.until_ready("HTTPTrigger", name)
            async with load(host, 80, f"/{place.name}/{name}", keep=False) as found:
                while found.answers.total() + len(found.failures) < 100:
                    await asyncio.sleep(0.05)
            return found.failures

    failures = await asyncio.gather(*(one(f"f{number}") for number in range(TRIGGERS)))
    assert [found for found in failures if found] == []
