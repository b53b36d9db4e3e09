"""For all tiers: neither how busy the machine is nor how the tests were started changes what they find."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest
from hypothesis import settings
from servers.keeper import Keeper
from xdist.scheduler import LoadScopeScheduling

# A property holds or not: none has a deadline by the clock
settings.register_profile("kubeirq", deadline=None)
settings.load_profile("kubeirq")

# A program that is started in the background ignores interrupts, and so would every program that a test interrupts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

KEEPER = pytest.StashKey[Keeper]()
_workers: list[int] = []  # their pids
_ended_by_a_signal = False


def _end(number: int, frame: FrameType | None) -> None:
    """On SIGTERM, the test run stops the servers that it started before it exits. A second one changes nothing."""
    global _ended_by_a_signal
    _ended_by_a_signal = True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.default_int_handler(number, frame)


signal.signal(signal.SIGTERM, _end)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[KEEPER] = Keeper()


def pytest_unconfigure(config: pytest.Config) -> None:
    if KEEPER in config.stash:
        config.stash[KEEPER].stop()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_newgateway(gateway: Any) -> None:
    _workers.append(gateway.remote_exec("import os; channel.send(os.getpid())").receive())


def pytest_keyboard_interrupt() -> None:
    """Workers stop what their tests have started, too. Those of a terminal were interrupted with this process."""
    if _ended_by_a_signal:
        for pid in _workers:
            if psutil.pid_exists(pid):
                psutil.Process(pid).terminate()


# Files of tests that share a server of their own, and folders: each runs in one worker, other tests where there is room
TOGETHER = frozenset(
    ("test_chart.py", "test_chart_rights.py", "test_exposure.py", "test_workload_admission.py", "alone")
)


class Schedule(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        if file.parent.name in TOGETHER:
            return str(file.parent)
        return str(file) if file.name in TOGETHER else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Schedule:
    return Schedule(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that may take longest begin first, so that no worker begins one when the others have finished."""
    items.sort(key=_most_seconds, reverse=True)


def _most_seconds(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark is not None else 0.0
