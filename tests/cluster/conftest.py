"""Builds the ground of this tier before any test's time limit runs, and prints progress while that takes minutes."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from servers.cluster import Cluster, Namespace, cluster
from servers.images import archives, project_archives
from servers.kafka import jars
from servers.kubernetes_build.build import programs


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return  # it is all there
    with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        programs()
        jars()
        archives()
        project_archives()


@pytest_asyncio.fixture(scope="module", loop_scope="session", name="cluster")
async def shared_cluster() -> AsyncIterator[Cluster]:
    """The cluster with the chart installed that tests share which bring a namespace of their own."""
    async with cluster("cluster") as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def place(cluster: Cluster) -> AsyncIterator[Namespace]:
    """A test's own namespace on it."""
    async with cluster.namespace() as found:
        yield found
