"""Two terminals of a person who follows a page: the first one runs `kubeirq dev`, the second one all other commands."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from servers.kubernetes import MORTAL
from servers.pages import Block
from servers.ports import free_port

BIN = Path(sys.executable).parent
SECONDS = 300.0  # for one command, or for something that it has caused, on a busy machine
CTRL_C = "# Ctrl-C in the first terminal"
# The effect of an order comes after its 202: a person repeats such a command until it shows the effect
_READING = re.compile(r"kubeirq (logs|get|dead-letters list|call) ")


class Terminals:
    """Both begin in the folder `home`. `http_port` is the one that pages call 8080."""

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = self.folder = home
        self.http_port = free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "XDG_"))}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**inherited, "HOME": str(home), "PATH": path, "NO_COLOR": "1", **(environment or {})}
        self.first: asyncio.subprocess.Process | None = None
        self.first_lines: list[str] = []
        self.last_command = ""
        self.last_output = ""
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Terminals":
        return self

    async def __aexit__(self, kind: object, *problem: object) -> None:
        if kind is not None:
            print("\n".join(("--- first terminal", *self.first_lines, "--- second terminal", self.last_output)))
        if self.first is not None and self.is_running:
            self.first.kill()
            await self.first.wait()
        if self._reading is not None:
            await self._reading

    async def type(self, block: Block) -> None:
        """Runs the commands of a block of the page."""
        for command in commands_of(block.text):
            print(f"$ {command}")
            if command == CTRL_C:
                await self.interrupt()
            elif command.startswith("kubeirq dev "):
                await self.start(command)
            elif not command.startswith("#"):
                code = await self.run(command)
                assert code == 0 or _READING.match(command), f"{command}: exit code {code}\n{self.last_output}"

    async def run(self, command: str) -> int:
        """Runs it in the second terminal. Returns the exit code; `last_output` has both streams."""
        place = self.home / ".folder"
        process = await asyncio.create_subprocess_exec(
            "bash", "-e", "-c", f"{self.here(command)}\npwd > {place}",
            cwd=self.folder, env=self.environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(SECONDS):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self.last_command, self.last_output = command, output.decode(errors="replace")
        assert process.returncode is not None
        if process.returncode == 0:
            self.folder = Path(place.read_text().strip())
        return process.returncode

    async def start(self, command: str) -> None:
        """In the first terminal. Returns when all is ready that is not suspended."""
        assert not self.is_running, "the page does not say Ctrl-C"
        self.first_lines = []
        self.first = await asyncio.create_subprocess_exec(
            *MORTAL, "bash", "-c", f"exec {command} --http-port {self.http_port}",
            cwd=self.folder, env=self.environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self.first))
        self.last_command, self.last_output = command, ""
        await until(self.all_ready)

    async def interrupt(self) -> None:
        assert self.first is not None
        self.first.send_signal(signal.SIGINT)
        async with asyncio.timeout(SECONDS):
            assert await self.first.wait() == 0

    @property
    def is_running(self) -> bool:
        return self.first is not None and self.first.returncode is None

    async def all_ready(self) -> bool:
        assert self.first is not None
        assert self.first.returncode is None, "\n".join(self.first_lines)
        found = await self.status()
        return found is not None and all(map(is_ready, (*found["functions"], *found["triggers"])))

    async def status(self) -> Any:
        """The functions and triggers of the fabric in the first terminal; None until it answers."""
        connector = aiohttp.UnixConnector(path=str(self.folder / ".kubeirq" / "admin.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            try:
                async with session.get("http://admin/v1/status") as answer:
                    return await answer.json()
            except (aiohttp.ClientError, OSError):
                return None

    async def shows(self, block: Block) -> None:
        """Waits until the terminal shows each line of the block. `…` in it stands for any text."""
        in_first = "first terminal" in block.before or self.last_command.startswith("kubeirq dev ")

        async def is_shown() -> bool:
            shown = self.first_lines if in_first else self.last_output.splitlines()
            if not missing_from(shown, self.here(block.text)):
                return True
            if not in_first and _READING.match(self.last_command):
                await self.run(self.last_command)
            return False

        try:
            await until(is_shown, SECONDS if in_first or _READING.match(self.last_command) else 0)
        except TimeoutError:
            shown = self.first_lines if in_first else self.last_output.splitlines()
            missing = missing_from(shown, self.here(block.text))
            text = "\n".join(shown)
            raise AssertionError(f"{block.page.name}:{block.line}: {missing} is not in:\n{text}") from None

    def here(self, text: str) -> str:
        return text.replace("127.0.0.1:8080", f"127.0.0.1:{self.http_port}")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.first_lines.append(line.decode(errors="replace").rstrip())


def commands_of(text: str) -> list[str]:
    """Each command in one line; a comment that stands alone is one, too."""
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def missing_from(shown: list[str], wanted: str) -> list[str]:
    """The wanted lines that no shown line has in it."""
    patterns = {
        line: re.compile(".*".join(re.escape(part) for part in line.strip().split("…"))) for line in wanted.splitlines()
    }
    return [line for line, pattern in patterns.items() if not any(map(pattern.search, shown))]


def is_ready(one: Mapping[str, Any]) -> bool:
    """A function or a trigger of the fabric's status. A suspended trigger is as ready as it can be."""
    if "conditions" not in one:
        return bool(one["state"] == "Ready")
    condition = one["conditions"][0]
    return condition["status"] == "True" or condition["reason"] == "Suspended"


async def until(holds: Callable[[], Any], seconds: float = SECONDS) -> None:
    """Raises TimeoutError. It asks once at least."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await holds():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.2)
