"""What the tests of this tier stand on is built before any test's time limit runs."""

from servers.kubernetes_build.build import programs


def pytest_collection_finish() -> None:
    programs()
