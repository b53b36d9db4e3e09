"""A function as a process: replaces its version without losing an event, and opens and closes its gate."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from controllers.functions.worker_ends import end_text, lost_text
from kubeirq.on_machine.program_runner import NotServing, Program, ProgramRunner
from kubeirq.output.function_log_lines import LogLine
from trigger_sources.dispatch.gate import Gate

log = logging.getLogger(__name__)

_END_SECONDS = 1.0  # after a connection is lost, until the end of the worker is known

FunctionState = Literal["Starting", "Ready", "Down", "Failing"]


class FunctionProcess:
    """One function: at most one version that serves, and one that starts to replace it.

    A version that does not become ready never replaces one that serves.
    """

    def __init__(self, name: str, gate: Gate, show: Callable[[LogLine], None]) -> None:
        self.name = name
        self.gate = gate
        self.state: FunctionState = "Starting"
        self.since = time.time()
        self.address = ""  # http://127.0.0.1:port, while a version serves
        self.restarts = 0
        self.last_error = ""
        self.last_error_at = 0.0  # seconds since the epoch
        self.newest: Program | None = None  # the newest version, whether it serves or not
        self._rejected = ""  # why the newest version does not serve while an older one does
        self._show = show
        self._serving: ProgramRunner | None = None
        self._starting: ProgramRunner | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._worker_end = ""  # of the last worker that crashed: `exit code 7`, `signal SIGSEGV`
        self._worker_ended_at = 0.0  # in seconds of the monotonic clock
        self._worker_has_ended = asyncio.Event()
        gate.why_lost = self._why_lost
        gate.close("its process is starting")

    @property
    def pid(self) -> int | None:
        return self._serving.pid if self._serving is not None else None

    async def busy(self) -> str:
        """Which handlers have run for long, and where, as the runtime says; empty if none has."""
        return await self._serving.busy() if self._serving is not None else ""

    def folders(self) -> list[Path]:
        """The code folders in use."""
        return [runner.program.folder for runner in (self._starting, self._serving) if runner is not None]

    def run(self, program: Program) -> None:
        """Starts this version. It takes over as soon as it is ready."""
        self.newest = program
        self._rejected = ""
        if self._starting is not None:
            self._stop(self._starting)
        if program.alone and self._serving is not None:
            self._stop(self._serving)
            self._serving = None
            self.gate.close("its new version starts under the debugger")
        self._starting = ProgramRunner(
            self.name,
            program,
            on_ready=self._on_ready,
            on_failure=self._on_failure,
            on_worker_end=self._on_worker_end,
            show=self._show,
            after=tuple(self._stopping) if program.alone else (),
        )
        if self._serving is None:
            self._set_state("Starting")

    def failed(self, message: str) -> None:
        """Notes that the newest version cannot start, because its code or its dependencies are missing."""
        self.newest = None
        self._note_error(message)
        if self._starting is not None:
            self._stop(self._starting)
            self._starting = None
        if self._serving is None:
            self.gate.close(message.partition("\n")[0])
        else:
            self._rejected = message
        self._set_state("Failing")

    async def stop(self) -> None:
        """Ends all its processes. Calls in progress may finish within the grace period."""
        for runner in (self._starting, self._serving):
            if runner is not None:
                self._stop(runner)
        self._starting = self._serving = None
        self.gate.close("it was stopped")
        await asyncio.gather(*self._stopping)

    def _on_ready(self, runner: ProgramRunner, port: int, concurrency: int | None) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.gate.concurrency = concurrency
        self.gate.move(self.address + "/")
        self.gate.open()
        if runner is self._starting:
            self._starting = None
            if self._serving is not None:
                self._stop(self._serving)
            self._serving = runner
        self.last_error = self._rejected
        self._set_state("Failing" if self._rejected else "Ready")

    def _on_failure(self, runner: ProgramRunner, error: NotServing) -> bool:
        """Whether the runner is to start the process again."""
        if runner is self._starting and self._serving is not None:
            self._starting = None
            self._rejected = f"the new version does not start, the old version still runs: {error}"
            self._note_error(self._rejected)
            self._set_state("Failing")
            return False
        self._note_error(str(error))
        self.restarts += 1
        self.address = ""
        self.gate.close(str(error))
        self._set_state("Down" if runner is self._serving else "Failing")
        return True

    def _on_worker_end(self, how: str) -> None:
        """A worker crashed, or a call in it took too long. The function stays up.

        The supervisor holds the socket, and starts another one.
        """
        self._worker_end = how
        self._worker_ended_at = time.monotonic()
        self._worker_has_ended.set()
        self.restarts += 1
        self._note_error(end_text(how))
        log.warning("worker of function ended", extra={"function": self.name, "problem": end_text(how)})

    async def _why_lost(self, called_at: float) -> str:
        """Why a call that began then (seconds of the monotonic clock) lost its connection; empty if nobody knows."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while self._worker_ended_at <= called_at:
                    self._worker_has_ended.clear()
                    await self._worker_has_ended.wait()
        if self._worker_ended_at <= called_at:
            return ""
        return lost_text(self._worker_end)

    def _note_error(self, message: str) -> None:
        self.last_error = message
        self.last_error_at = time.time()

    def _stop(self, runner: ProgramRunner) -> None:
        task = asyncio.ensure_future(runner.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def _set_state(self, state: FunctionState) -> None:
        if state == self.state and state in ("Ready", "Starting"):
            return
        if state != self.state and not {state, self.state} <= {"Down", "Failing"}:
            self.since = time.time()  # a function that fails at each start has failed since the first one
        self.state = state
        log.log(
            logging.INFO if state in ("Ready", "Starting") else logging.WARNING,
            "function is " + state.lower(),
            extra={"function": self.name, "problem": self.last_error},
        )
