"""The Python runtime as a process of its own, on a handler that a test writes."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from servers.ports import free_port

SERVER = Path(__file__).resolve().parents[2] / "runtimes" / "python" / "server.py"


@dataclass
class Function:
    """One function's runtime. `url` is the same over restarts."""

    folder: Path
    environment: dict[str, str]
    port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """The supervisor and its worker."""
        assert self.process is not None
        try:
            supervisor = psutil.Process(self.process.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    async def launch(self) -> None:
        """Starts it without waiting until it is ready."""
        with (self.folder / "output").open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, str(SERVER), cwd=self.folder, env={**os.environ, **self.environment},
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    async def start(self) -> None:
        """Returns once it is ready."""
        await self.launch()
        assert self.process is not None
        async with asyncio.timeout(30):
            while not await self.is_ready():
                if self.process.returncode is not None:
                    raise RuntimeError(f"the runtime ended with {self.process.returncode}:\n{self.output()}")
                await asyncio.sleep(0.02)

    async def is_ready(self) -> bool:
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    async def kill(self) -> None:
        """SIGKILL for all of it."""
        family = self.family()
        for member in family:
            member.kill()
        assert self.process is not None
        await self.process.wait()
        await asyncio.to_thread(psutil.wait_procs, family[1:], 10)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            return await self.process.wait()


@asynccontextmanager
async def function(
    source: str, handler: str = "f.handler", *, file: str = "f.py", ready: bool = True, **env: str
) -> AsyncIterator[Function]:
    """A running function whose module is `source`, in that file. Stopped by pid at the end, whatever happened."""
    module, _, name = handler.rpartition(".")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / file).write_text(source)
        port = free_port()
        environment = {
            "MOD_NAME": module,
            "FUNC_HANDLER": name,
            "FUNC_HOST": "127.0.0.1",
            "FUNC_PORT": str(port),
            **env,
        }
        found = Function(Path(folder), environment, port)
        try:
            await (found.start() if ready else found.launch())
            yield found
        finally:
            if found.process is not None and found.process.returncode is None:
                await found.kill()
