"""What this tier stands on is built before any test's time limit runs, and says so while it takes minutes."""

import asyncio
import fcntl
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


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="cluster")
async def shared_cluster() -> AsyncIterator[Cluster]:
    """The one cluster with the chart installed, for tests that bring a namespace of their own."""
    async with cluster() as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def place(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Namespace]:
    """A test's own namespace on it. A test with the mark `alone` runs while no other does."""
    alone = request.node.get_closest_marker("alone") is not None
    with (cluster.node.folder / "tests.lock").open("a") as lock:
        await _locked(lock.fileno(), fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        async with cluster.namespace() as found:
            yield found


async def _locked(file: int, how: int) -> None:
    """Returns once this process has the lock; in no thread, which could not be interrupted."""
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(0.1)
        else:
            return
