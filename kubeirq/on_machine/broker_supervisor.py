"""Starts the processes of an embedded broker, waits until it answers, and restarts it when one of them ends."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kubeirq.on_machine.child_processes import exit_text, start_child, stop_child
from trigger_sources.backoff import Backoff

log = logging.getLogger(__name__)

_READY_SECONDS = 20.0
_PROBE_SECONDS = 2.0
_STOP_SECONDS = 5.0
_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.1, 5.0
_STAYED_UP_SECONDS = 60.0  # after such a run, the restart delay starts again at the first one
_LAST_BYTES, _LAST_CHARACTERS = 4_096, 300  # of the log, in the text of BrokerFailed
_LOG_MAX_BYTES = 8 * 1024 * 1024

Processes = AbstractAsyncContextManager[Sequence[asyncio.subprocess.Process]]


class BrokerFailed(Exception):
    """A broker did not start. The text names its log and says what you can do instead."""


@dataclass
class Broker:
    """A running broker. Its address does not change while it is open, even across restarts."""

    kind: str  # "nats" or "kafka"
    address: str  # as in a trigger's spec: nats://127.0.0.1:4222, or 127.0.0.1:9092
    pids: Sequence[int] = ()
    restarts: int = 0
    problem: str = ""  # why it is down; empty while it runs
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def supervised(broker: Broker, start: Callable[[], Processes], state: Path) -> AsyncIterator[Broker]:
    """Yields when the broker is ready, and restarts it while the context is open. Raises BrokerFailed."""
    (state / "logs").mkdir(parents=True, exist_ok=True)
    supervisor = asyncio.create_task(_supervise(broker, start))
    ready = asyncio.create_task(broker.is_ready.wait())
    try:
        await asyncio.wait({supervisor, ready}, return_when=asyncio.FIRST_COMPLETED)
        if supervisor.done():
            await supervisor  # raises BrokerFailed
        yield broker
    finally:
        for task in (ready, supervisor):
            task.cancel()
        await asyncio.gather(ready, supervisor, return_exceptions=True)


@asynccontextmanager
async def broker_process(
    command: Sequence[str], log_file: Path, environment: dict[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs one process of a broker while the context is open."""
    _rotate(log_file)
    async with AsyncExitStack() as stack:
        output = stack.enter_context(log_file.open("ab"))
        process = await start_child(command, environment={**os.environ, **environment}, output=output)
        stack.push_async_callback(stop_child, process, _STOP_SECONDS)
        try:
            yield process
        except _NotReady as error:
            said = await asyncio.to_thread(_last_line, log_file)
            raise BrokerFailed(
                f"{log_file.stem}: {error}{said}; see {log_file}, or give the triggers the address of your brokers"
            ) from error


async def wait_until_ready(probe: Callable[[], Awaitable[bool]], process: asyncio.subprocess.Process) -> None:
    """Waits until the probe succeeds. Use it inside `broker_process`, which turns a failure into BrokerFailed."""
    deadline = asyncio.get_running_loop().time() + _READY_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        if process.returncode is not None:
            raise _NotReady(f"ended at start: {exit_text(process.returncode)}")
        with contextlib.suppress(OSError, TimeoutError, EOFError):
            async with asyncio.timeout(_PROBE_SECONDS):
                if await probe():
                    return
        await asyncio.sleep(0.02)
    raise _NotReady(f"does not answer after {_READY_SECONDS:.0f} s")


class _NotReady(Exception):
    pass


async def _supervise(broker: Broker, start: Callable[[], Processes]) -> None:
    backoff = Backoff(_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS)
    while True:
        try:
            async with start() as processes:
                broker.pids = [process.pid for process in processes]
                broker.problem = ""
                broker.is_ready.set()
                began = asyncio.get_running_loop().time()
                ended = await _first_to_end(processes)
            broker.problem = exit_text(ended.returncode or 0)
            if asyncio.get_running_loop().time() - began > _STAYED_UP_SECONDS:
                backoff.reset()
        except BrokerFailed as error:
            if not broker.is_ready.is_set():
                raise
            broker.problem = str(error)
        broker.restarts += 1
        log.warning("broker ended", extra={"broker": broker.kind, "problem": broker.problem})
        await asyncio.sleep(backoff.next())


async def _first_to_end(processes: Sequence[asyncio.subprocess.Process]) -> asyncio.subprocess.Process:
    waits = {asyncio.create_task(process.wait()): process for process in processes}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return waits[done.pop()]
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def _last_line(log_file: Path) -> str:
    """The last line that the broker logged, as it says why it ended."""
    with log_file.open("rb") as file:
        file.seek(max(0, log_file.stat().st_size - _LAST_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:_LAST_CHARACTERS]}" if lines else ""


def _rotate(log_file: Path) -> None:
    if log_file.exists() and log_file.stat().st_size > _LOG_MAX_BYTES:
        log_file.replace(log_file.with_suffix(".log.1"))
