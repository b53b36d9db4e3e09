"""What this tier stands on is built before any test's time limit runs, and says so while it takes minutes."""

import pytest
from servers.kubernetes_build.build import gateway_api, monitoring, programs


def pytest_collection_finish(session: pytest.Session) -> None:
    with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        programs()
        gateway_api()
        monitoring()
