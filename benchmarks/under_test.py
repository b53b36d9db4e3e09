"""Starts one process of a checkout together with its far side, so that an exact number of events can go through it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import rows
from benchmarks.far_side import Callers, Ended, FarSide, calm, function
from benchmarks.measure import CLIENT_CORE, ROOT, SERVER_CORE, free_port, process, wait_for_port

IN_FLIGHT = 64  # a divisor of the events that Kafka's and JetStream's triggers take at once
_NAME = "benchmark"
_KEYS = 1_000
_BODY = b'{"id":"evt-%08d"}'  # so small that one fetch of Kafka brings all that is counted
_SPARE = 4_096  # the trigger takes events before it calls the function: its source is never empty
_REQUEST = (
    b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nce-specversion: 1.0\r\nce-id: 1\r\n"
    b"ce-source: s\r\nce-type: t\r\ncontent-length: 21\r\n\r\n" + _BODY % 1
)
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}


@dataclass(frozen=True)
class Checkout:
    """A working copy of this project, with its packages in `.venv`."""

    folder: Path
    name: str

    @property
    def python(self) -> str:
        return str(self.folder / ".venv/bin/python")


@dataclass(frozen=True)
class UnderTest:
    pid: int
    far_side: FarSide
    log: Path

    async def let(self, events: int) -> None:
        """Lets so many more events through, a multiple of IN_FLIGHT; returns once the process sleeps."""
        try:
            await self.far_side.let(events, self.pid)
        except Ended:
            last = self.log.read_text(errors="replace")[-2_000:]
            raise RuntimeError(f"the process under test ended; it printed:\n{last}") from None


@dataclass(frozen=True)
class Start:
    """How the process is started. `wrap` puts valgrind before its command."""

    checkout: Checkout
    events: int  # that will be let through
    folder: Path
    core: int = CLIENT_CORE
    wrap: Callable[[Sequence[str]], Sequence[str]] = list
    launcher: Sequence[str] = ()  # a program that runs the module named next
    patient: bool = False

    @property
    def log(self) -> Path:
        return self.folder / "log"


@asynccontextmanager
async def runtime(start: Start) -> AsyncIterator[UnderTest]:
    port = free_port()
    environment = {
        "MOD_NAME": "tiny", "FUNC_HANDLER": "handler", "FUNC_PORT": str(port), "FUNC_HOST": "127.0.0.1",
        "PYTHONPATH": f"{rows.PROGRAMS}:{start.checkout.folder}/runtimes/python", **_ENVIRONMENT,
    }  # fmt: skip
    program = [*start.launcher, "kubeirq_runtime.supervisor"] if start.launcher else ["runtimes/python/server.py"]
    command = start.wrap([start.checkout.python, *program])
    with process(command, start.core, environment, start.checkout.folder, start.log) as server:
        await asyncio.to_thread(wait_for_port, port, 120)
        callers = Callers(_REQUEST)
        await callers.connect(port, IN_FLIGHT)
        try:
            worker = await _child_of(server)
            await calm(worker)
            yield UnderTest(worker, callers, start.log)
        finally:
            server.kill()  # the worker ends with its supervisor


async def _child_of(process: psutil.Process) -> int:
    """The supervisor listens before it forks."""
    async with asyncio.timeout(60):
        while True:
            for child in process.children():
                return child.pid
            await asyncio.sleep(0.1)


@asynccontextmanager
async def kafka(start: Start) -> AsyncIterator[UnderTest]:
    from aiokafka import AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    with rows.tansu(free_port()) as address:
        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        await admin.start()
        await admin.create_topics([NewTopic(_NAME, 1, 1)])
        await admin.close()
        async with AIOKafkaProducer(bootstrap_servers=address, linger_ms=20) as producer:
            numbers = range(start.events + _SPARE)
            sent = [await producer.send(_NAME, _BODY % n, key=b"%d" % (n % _KEYS)) for n in numbers]
            await asyncio.gather(*sent)
        async with _serve(start, "KafkaTrigger", {"brokers": [address], "topics": [_NAME], "ordering": "key"}) as found:
            yield found


@asynccontextmanager
async def jetstream(start: Start) -> AsyncIterator[UnderTest]:
    import nats

    port = free_port()
    server = str(Path(sys.executable).with_name("nats-server"))
    store = str(start.folder / "jetstream")
    with process([server, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", store], SERVER_CORE):
        await asyncio.to_thread(wait_for_port, port)
        address = f"nats://127.0.0.1:{port}"
        connection = await nats.connect(address)
        stream = connection.jetstream()
        await stream.add_stream(name=_NAME, subjects=[_NAME])
        total = start.events + _SPARE
        for first in range(0, total, 500):
            numbers = range(first, min(total, first + 500))
            await asyncio.gather(*(stream.publish(_NAME, _BODY % n, timeout=60) for n in numbers))
        await connection.close()
        # no acknowledgement is extended while this lasts
        async with _serve(
            start, "NATSTrigger", {"servers": [address], "subject": _NAME, "ackWaitSeconds": 3600}
        ) as found:
            yield found


@asynccontextmanager
async def _serve(start: Start, kind: str, spec: Mapping[str, object]) -> AsyncIterator[UnderTest]:
    port = free_port()
    manifest = start.folder / "benchmark.yaml"
    manifest.write_text(rows.manifest_of(kind, {**spec, "url": f"http://127.0.0.1:{port}/", "concurrency": IN_FLIGHT}))
    command = start.wrap(
        [
            start.checkout.python, *(start.launcher or ["-m"]), "kubeirq.__main__", "serve", str(manifest),
            "--state", str(start.folder / "state"), "--http-port", "0", "--metrics-port", "0",
        ]
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(function(port, IN_FLIGHT, patient=start.patient))
        fabric = stack.enter_context(process(command, start.core, _ENVIRONMENT, start.checkout.folder, start.log))
        stack.callback(fabric.kill)  # not asked to end: it would wait for the answers that are left out
        found = UnderTest(fabric.pid, there, start.log)
        await found.let(0)
        yield found


PROCESSES = {"kafka": kafka, "jetstream": jetstream, "runtime": runtime}
HERE = Checkout(ROOT, "this checkout")
