"""Runs one version of a function as a process: starts it, waits until it is ready, restarts it when it ends."""

import asyncio
import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kubeirq.on_machine.child_processes import exit_text, free_port, kill_group, start_child, stop_child
from kubeirq.on_machine.private_files import outer_umask
from kubeirq.output.function_log_lines import LineCutter, LogLine
from trigger_sources.backoff import Backoff

_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.2, 15.0
_STAYED_UP_SECONDS = 30.0  # after such a run, the restart delay starts again at the first one
_POLL_SECONDS = 0.03
_PROBE_SECONDS = 2.0
_READ_BYTES = 64 * 1024
_LAST_LINES = 20
_FRAME = re.compile(r'\s*File "(.+)", line (\d+)')  # of a traceback
_RUNTIME_LINE = "runtime: the function does not start"  # comes after the line that says why


@dataclass(frozen=True)
class Program:
    """The command, code and environment of one version of a function. Equal programs need no new process."""

    command: tuple[str, ...]
    folder: Path  # a copy of the code, and the working directory
    environment: Mapping[str, str]
    origin: Path | None = None  # the author's folder; replaces the copy's path in the lines that are shown
    ready_seconds: float = 60.0  # how long a start may take
    stop_seconds: float = 30.0  # how long calls in progress may take to finish
    alone: bool = False  # it starts only after the version before has ended, as both need the debugger's port


class NotServing(Exception):
    """A process ended or did not become ready. The text says how, with the last line that it printed."""


class ProgramRunner:
    """Keeps one program running, in one task, until it is stopped.

    `on_ready` gets the port and the declared concurrency. `on_failure` gets the error, and returns whether to restart.
    `on_worker_end` gets the exit status in words of a worker that crashed: its supervisor, which is the process,
    starts another one by itself.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        *,
        on_ready: Callable[["ProgramRunner", int, int | None], None],
        on_failure: Callable[["ProgramRunner", NotServing], bool],
        on_worker_end: Callable[[str], None],
        show: Callable[[LogLine], None],
        after: Collection["asyncio.Task[None]"] = (),  # it starts once these have ended
    ) -> None:
        self.program = program
        self.pid: int | None = None
        self._port = 0
        self._name = name
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._on_worker_end = on_worker_end
        self._show = show
        self._after = after
        self._process: asyncio.subprocess.Process | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._reader: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._end_process()

    async def busy(self) -> str:
        """Which handlers have run for long, and where, as its runtime says."""
        with contextlib.suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_PROBE_SECONDS):
                return (await _health(self._port)).busy
        return ""

    async def _keep_running(self) -> None:
        backoff = Backoff(_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS)
        if self._after:
            await asyncio.wait(self._after)
        while True:
            started = time.monotonic()
            try:
                await self._run_once()
            except NotServing as error:
                await self._end_process()
                if not self._on_failure(self, error):
                    return
            if time.monotonic() - started > _STAYED_UP_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _run_once(self) -> None:
        """Runs the process until it ends, and then always raises NotServing."""
        port = self._port = free_port()
        self._last_lines.clear()
        ends, told = os.pipe()
        self._read_ends(ends)
        try:
            process = await start_child(
                self.program.command,
                environment={**self.program.environment, "FUNC_PORT": str(port), "KUBEIRQ_ENDS_FD": str(told)},
                folder=self.program.folder,
                output=asyncio.subprocess.PIPE,
                umask=outer_umask(),
                pass_fds=[told],
            )
        except OSError as error:
            raise NotServing(f"{self.program.command[0]}: {error.strerror}") from error
        finally:
            os.close(told)
        self._process = process
        self.pid = process.pid
        self._reader = asyncio.create_task(self._read(process))
        concurrency = await self._until_ready(process, port)
        self._on_ready(self, port, concurrency)
        await process.wait()
        raise await self._ended(process)

    async def _until_ready(self, process: asyncio.subprocess.Process, port: int) -> int | None:
        """Returns the declared concurrency as soon as the health check answers 200. Raises NotServing."""
        deadline = time.monotonic() + self.program.ready_seconds
        problem = "nothing listens on FUNC_PORT"
        while process.returncode is None:
            try:
                async with asyncio.timeout(_PROBE_SECONDS):
                    health = await _health(port)
                if health.status == 200:
                    return health.concurrency
                problem = f"/healthz answers {health.status}"
            except (OSError, ValueError, asyncio.IncompleteReadError):
                pass
            if time.monotonic() > deadline:
                raise NotServing(f"not ready after {self.program.ready_seconds:g} s: {problem}{self._last_line()}")
            await asyncio.sleep(_POLL_SECONDS)
        raise await self._ended(process)

    async def _ended(self, process: asyncio.subprocess.Process) -> NotServing:
        kill_group(process)  # children that it left behind would keep its output open
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=1)
        return NotServing(f"its process ended: {exit_text(process.returncode or 0)}{self._last_line()}")

    def _last_line(self) -> str:
        printed = (line for line in reversed(self._last_lines) if line.strip() and not line.startswith(_RUNTIME_LINE))
        line = next(printed, "")
        place = place_of_error(self._last_lines, self.program.origin or self.program.folder)
        if not line:
            return ""
        from controllers.functions.pod_problems import with_field_names  # only where a program failed

        return f": {with_field_names(line.strip())}{place}"

    def _read_ends(self, ends: int) -> None:
        """Reads a line for each worker that crashes, until the process has ended and closed its side of the pipe."""
        loop = asyncio.get_running_loop()
        os.set_blocking(ends, False)

        def read() -> None:
            lines = os.read(ends, _READ_BYTES).decode(errors="replace").splitlines()
            for line in lines:
                self._on_worker_end(line)
            if not lines:
                loop.remove_reader(ends)
                os.close(ends)

        loop.add_reader(ends, read)

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
        cutter = LineCutter(self._name, time.monotonic)
        while True:
            try:
                async with asyncio.timeout(1 if cutter.owes_note else None):
                    data = await process.stdout.read(_READ_BYTES)
            except TimeoutError:
                self._show_lines(cutter.pause())
                continue
            if not data:
                break
            self._show_lines(cutter.feed(data))
        self._show_lines(cutter.end())

    def _show_lines(self, lines: Iterable[LogLine]) -> None:
        for line in lines:
            if self.program.origin is not None and (copied := f"{self.program.folder}/") in line.text:
                line = line._replace(text=line.text.replace(copied, f"{self.program.origin}/"))
            if not line.left_out:
                self._last_lines.append(line.text)
            self._show(line)


def place_of_error(lines: Iterable[str], code: Path) -> str:
    """` (orders.py:12)`: the last line of the function's own code in a traceback; empty without one. Pure."""
    places = [found for line in lines if (found := _FRAME.match(line)) is not None]
    own = next((found for found in reversed(places) if found[1].startswith(f"{code}/")), None)
    return f" ({Path(own[1]).relative_to(code)}:{own[2]})" if own is not None else ""


class _Health(NamedTuple):
    status: int
    concurrency: int | None  # as the function declares it
    busy: str  # which handlers have run for long


async def _health(port: int) -> _Health:
    """The answer of /healthz."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    status_line, *lines = head.split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    declared = headers.get("kubeirq-concurrency", "")
    concurrency = int(declared) if declared.isdigit() else None
    return _Health(int(status_line.split(" ")[1]), concurrency, headers.get("kubeirq-busy", ""))
