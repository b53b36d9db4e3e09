"""Tests that harm others, since they kill or stop what all share: these follow each other on a cluster of their own."""

from collections.abc import AsyncIterator

import pytest_asyncio
from servers.cluster import Cluster, cluster


@pytest_asyncio.fixture(scope="module", loop_scope="session", name="cluster")
async def second_cluster() -> AsyncIterator[Cluster]:
    async with cluster("cluster-alone") as found:
        yield found
