"""Builds the ground of this tier before any test's time limit runs, and prints progress while that takes minutes."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from servers.controllers import server_for_controllers
from servers.kafka import jars
from servers.kubernetes import APIServer
from servers.kubernetes_build.build import gateway_api, monitoring, programs


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return  # it is all there
    with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        jars()
        programs()
        gateway_api()
        monitoring()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kubernetes() -> AsyncIterator[APIServer]:
    """One API server for tests that follow each other in a worker. Each removes what it has made: see `cluster`."""
    async with server_for_controllers() as found:
        yield found
