"""A real NATS server in a process of its own."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
from servers.ports import free_port

PROGRAM = Path(sys.executable).with_name("nats-server")


@dataclass
class NATSServer:
    """One server; its port and store outlive `kill`."""

    folder: Path
    port: int
    arguments: tuple[str, ...]
    host: str = "127.0.0.1"
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    async def start(self) -> None:
        """Returns once it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                str(PROGRAM), "-a", self.host, "-p", str(self.port), *self.arguments, stdout=log, stderr=log
            )
        async with asyncio.timeout(20):
            while True:
                assert self.process.returncode is None, (self.folder / "log").read_text()[-3000:]
                try:
                    reader, writer = await asyncio.open_connection(self.host, self.port)
                    assert (await reader.readline()).startswith(b"INFO")
                    writer.close()
                except (OSError, AssertionError):
                    await asyncio.sleep(0.02)
                else:
                    return

    async def reload(self, config: str) -> None:
        """Replaces the configuration of a server that was started with one. Returns once the server uses it."""
        assert self.process is not None
        reloads = self._reloads()
        (self.folder / "server.conf").write_text(config)
        self.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while self._reloads() == reloads:
                await asyncio.sleep(0.01)

    def _reloads(self) -> int:
        return (self.folder / "log").read_text().count("Reloaded server configuration")

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM."""
        assert self.process is not None
        self.process.terminate()
        await self.process.wait()


@asynccontextmanager
async def nats_server(
    jetstream: bool = True, config: str | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[NATSServer]:
    """A running server, stopped by pid at the end, whatever happened."""
    with tempfile.TemporaryDirectory() as folder:
        arguments: tuple[str, ...] = ("--jetstream", "--store_dir", f"{folder}/store") if jetstream else ()
        if config is not None:
            (Path(folder) / "server.conf").write_text(config)
            arguments += ("-c", f"{folder}/server.conf")
        found = NATSServer(Path(folder), free_port(), arguments, host)
        try:
            await found.start()
            yield found
        finally:
            if found.process is not None and found.process.returncode is None:
                await found.kill()


async def publish(url: str, stream: str, messages: int, keys: int = 1_000) -> dict[str, list[int]]:
    """Publishes messages `{"key", "n"}` to `STREAM.KEY` in order, in a stream made for it; what was sent, by key."""
    connection = await nats.connect(url)
    jetstream = connection.jetstream()
    await jetstream.add_stream(name=stream, subjects=[f"{stream}.>"])
    sent: dict[str, list[int]] = {}
    for first in range(0, messages, 500):
        batch = []
        for number in range(first, min(first + 500, messages)):
            key = f"k{number % keys}"
            sent.setdefault(key, []).append(number)
            batch.append(jetstream.publish(f"{stream}.{key}", b'{"key": "%s", "n": %d}' % (key.encode(), number)))
        await asyncio.gather(*batch)
    await connection.close()
    return sent
