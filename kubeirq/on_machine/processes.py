"""Functions as processes of this machine: started, watched, restarted, replaced without losing an event."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kubeirq.on_machine.children import exit_text, free_port, kill_group, start_child, stop_child
from kubeirq.output.function_logs import Lines, LogLine
from trigger_sources.dispatch.gate import Gate

log = logging.getLogger(__name__)

FunctionState = Literal["Starting", "Ready", "Down", "Failing"]

_RESTART_FIRST_SECONDS = 0.2
_RESTART_MAX_SECONDS = 15.0
_STAYED_UP_SECONDS = 30.0
_POLL_SECONDS = 0.03
_READ_BYTES = 64 * 1024
_SAID_BY_THE_RUNTIME = "runtime: the function does not start"  # after what the function itself had to say


@dataclass(frozen=True)
class Program:
    """What one version of a function runs. Two that are equal need no new process."""

    command: tuple[str, ...]
    folder: Path  # its code, and its working directory
    environment: Mapping[str, str]
    origin: Path | None = None  # where the person who wrote it has it: so do the lines that are shown
    ready_seconds: float = 60.0  # how long a start may take
    stop_seconds: float = 30.0  # how long it may finish what it has begun


class NotServing(Exception):
    """A process ended or did not become ready. The text says how, with the last thing it printed."""


class FunctionProcess:
    """One function: at most one version that serves and one that is to take its place.

    A version that does not become ready never takes the place of one that serves.
    """

    def __init__(self, name: str, gate: Gate, show: Callable[[LogLine], None]) -> None:
        self.name = name
        self.gate = gate
        self.state: FunctionState = "Starting"
        self.since = time.time()
        self.address = ""  # http://127.0.0.1:port, while one serves
        self.restarts = 0
        self.last_error = ""
        self.wanted: Program | None = None  # the newest version, whether it serves or not
        self._rejected = ""  # why the newest version does not serve though an older one does
        self._show = show
        self._serving: _Version | None = None
        self._coming: _Version | None = None
        self._retired: set[asyncio.Task[None]] = set()
        gate.close("its process is starting")

    @property
    def pid(self) -> int | None:
        return self._serving.pid if self._serving is not None else None

    def folders(self) -> list[Path]:
        """The code that is still in use."""
        return [version.program.folder for version in (self._coming, self._serving) if version is not None]

    def run(self, program: Program) -> None:
        """From now on this version is wanted: it takes over as soon as it is ready."""
        self.wanted = program
        self._rejected = ""
        if self._coming is not None:
            self._retire(self._coming)
        self._coming = _Version(self, program)
        if self._serving is None:
            self._became("Starting")

    def failed(self, message: str) -> None:
        """The newest version cannot even be started: its code or its dependencies are not there."""
        self.wanted = None
        self.last_error = message
        if self._coming is not None:
            self._retire(self._coming)
            self._coming = None
        if self._serving is None:
            self.gate.close(message.partition("\n")[0])
        else:
            self._rejected = message
        self._became("Failing")

    async def stop(self) -> None:
        """Ends all of its processes; what they have begun may finish within their grace."""
        for version in (self._coming, self._serving):
            if version is not None:
                self._retire(version)
        self._coming = self._serving = None
        self.gate.close("it was stopped")
        await asyncio.gather(*self._retired)

    # --- what versions report

    def _is_ready(self, version: "_Version", port: int, concurrency: int | None) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.gate.concurrency = concurrency
        self.gate.move(self.address + "/")
        self.gate.open()
        if version is self._coming:
            self._coming = None
            if self._serving is not None:
                self._retire(self._serving)
            self._serving = version
        self.last_error = self._rejected
        self._became("Failing" if self._rejected else "Ready")

    def _not_ready(self, version: "_Version", error: NotServing) -> bool:
        """Whether the version is to try again."""
        if version is self._coming and self._serving is not None:
            self._coming = None
            self._rejected = self.last_error = f"the new version does not start, the one before goes on: {error}"
            self._became("Failing")
            return False
        self.last_error = str(error)
        self.restarts += 1
        self.address = ""
        self.gate.close(str(error))
        self._became("Down" if version is self._serving else "Failing")
        return True

    def _retire(self, version: "_Version") -> None:
        task = asyncio.ensure_future(version.stop())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _became(self, state: FunctionState) -> None:
        if state == self.state and state in ("Ready", "Starting"):
            return
        self.state = state
        self.since = time.time()
        log.log(
            logging.INFO if state in ("Ready", "Starting") else logging.WARNING,
            "function is " + state.lower(),
            extra={"function": self.name, "problem": self.last_error},
        )


class _Version:
    """One program, kept running by one task."""

    def __init__(self, owner: FunctionProcess, program: Program) -> None:
        self.program = program
        self.pid: int | None = None
        self._owner = owner
        self._process: asyncio.subprocess.Process | None = None
        self._last: deque[str] = deque(maxlen=20)
        self._reader: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._end_process()

    async def _keep_running(self) -> None:
        delay_seconds = _RESTART_FIRST_SECONDS
        while True:
            started = time.monotonic()
            try:
                await self._run_once()
            except NotServing as error:
                await self._end_process()
                if not self._owner._not_ready(self, error):
                    return
            if time.monotonic() - started > _STAYED_UP_SECONDS:
                delay_seconds = _RESTART_FIRST_SECONDS
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(_RESTART_MAX_SECONDS, delay_seconds * 2)

    async def _run_once(self) -> None:
        """Raises NotServing when it has ended, as it always does."""
        port = free_port()
        self._last.clear()
        try:
            process = await start_child(
                self.program.command,
                environment={**self.program.environment, "FUNC_PORT": str(port)},
                folder=self.program.folder,
                output=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise NotServing(f"{self.program.command[0]}: {error.strerror}") from error
        self._process = process
        self.pid = process.pid
        self._reader = asyncio.create_task(self._read(process))
        concurrency = await self._until_ready(process, port)
        self._owner._is_ready(self, port, concurrency)
        await process.wait()
        raise await self._ended(process)

    async def _until_ready(self, process: asyncio.subprocess.Process, port: int) -> int | None:
        """Its concurrency, once it answers 200."""
        deadline = time.monotonic() + self.program.ready_seconds
        problem = "nothing listens on FUNC_PORT"
        while process.returncode is None:
            try:
                async with asyncio.timeout(2):
                    status, concurrency = await _health(port)
                if status == 200:
                    return concurrency
                problem = f"/healthz answers {status}"
            except (OSError, ValueError, asyncio.IncompleteReadError):
                pass
            if time.monotonic() > deadline:
                raise NotServing(f"not ready after {self.program.ready_seconds:g} s: {problem}{self._last_word()}")
            await asyncio.sleep(_POLL_SECONDS)
        raise await self._ended(process)

    async def _ended(self, process: asyncio.subprocess.Process) -> NotServing:
        kill_group(process)  # what it started and left behind would hold its output open
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=1)
        return NotServing(f"its process ended: {exit_text(process.returncode or 0)}{self._last_word()}")

    def _last_word(self) -> str:
        said = (line for line in reversed(self._last) if line.strip() and not line.startswith(_SAID_BY_THE_RUNTIME))
        line = next(said, "")
        return f": {line.strip()}" if line else ""

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await stop_child(process, self.program.stop_seconds)
        reader, self._reader = self._reader, None
        if reader is not None:
            await asyncio.wait({reader}, timeout=1)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        lines = Lines(self._owner.name, time.monotonic)
        while True:
            try:
                async with asyncio.timeout(1 if lines.owes_note else None):
                    data = await process.stdout.read(_READ_BYTES)
            except TimeoutError:
                self._shown(lines.pause())
                continue
            if not data:
                break
            self._shown(lines.feed(data))
        self._shown(lines.end())

    def _shown(self, lines: Iterable[LogLine]) -> None:
        for line in lines:
            if self.program.origin is not None and (copied := f"{self.program.folder}/") in line.text:
                line = line._replace(text=line.text.replace(copied, f"{self.program.origin}/"))
            if not line.left_out:
                self._last.append(line.text)
            self._owner._show(line)


async def _health(port: int) -> tuple[int, int | None]:
    """Status and declared concurrency."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    status_line, *lines = head.split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    declared = headers.get("kubeirq-concurrency", "")
    return int(status_line.split(" ")[1]), int(declared) if declared.isdigit() else None
