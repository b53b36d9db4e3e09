"""A test run that is told to end, or killed, leaves no server running."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[3]
TEST = """
import asyncio
from pathlib import Path
import pytest
from servers.keeper import ask
from servers.nats import nats_server

@pytest.mark.parametrize("number", range(2))
async def test_that_waits(number):
    await ask("embedded-kafka")
    async with nats_server() as server:
        Path("FOLDER", f"{number}.pid").write_text(str(server.process.pid))
        await asyncio.sleep(600)
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda found: found.name)
async def test_a_run_that_is_ended_by_a_signal_stops_what_its_workers_and_the_keeper_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "test_that_waits.py").write_text(TEST.replace("FOLDER", str(tmp_path)))
    # The conftest of all tiers, for a test outside of them
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "conftest", "-n", "2"]
    run = await asyncio.create_subprocess_exec(
        *command, str(tmp_path), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        pids = [tmp_path / f"{worker}.pid" for worker in range(2)]
        async with asyncio.timeout(40):
            while not all(file.exists() and file.read_text() for file in pids):
                assert run.returncode is None
                await asyncio.sleep(0.05)
        started = psutil.Process(run.pid).children(recursive=True)
        assert {int(file.read_text()) for file in pids} <= {process.pid for process in started}
        if number is signal.SIGINT:  # from the keyboard it reaches every process of the terminal
            os.killpg(run.pid, number)
        else:
            run.send_signal(number)
        code = await asyncio.wait_for(run.wait(), 30)
        assert code == (-signal.SIGKILL if number is signal.SIGKILL else pytest.ExitCode.INTERRUPTED)
        _, alive = await asyncio.to_thread(psutil.wait_procs, started, 20 if number is signal.SIGKILL else 0)
        assert alive == []
    finally:
        if run.returncode is None:
            os.killpg(run.pid, signal.SIGKILL)
            await run.wait()
