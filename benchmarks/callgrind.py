"""Counts the instructions of a process under valgrind's callgrind, between two moments when it waits."""

import asyncio
import re
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)
_TRIES = 10


class NoCallgrind(Exception):
    """The machine lacks valgrind. The text says how to get it."""


@dataclass(frozen=True)
class Callgrind:
    """Starts processes under callgrind and asks them for their counts. Its files go into `folder`."""

    folder: Path
    options: Sequence[str] = ()

    def command(self, command: Sequence[str]) -> list[str]:
        """Counting is off at first: a start at full count takes five times as long."""
        return [
            "valgrind", "--quiet", "--tool=callgrind", "--trace-children=yes", "--instr-atstart=no",
            f"--vgdb-prefix={self.folder}/vgdb", f"--callgrind-out-file={self.folder}/counts.%p",
            *self.options, *command,
        ]  # fmt: skip

    async def begin(self, pid: int) -> None:
        await self._ask(pid, "instrumentation", "on")

    async def count(self, pid: int) -> int:
        """The instructions since the last call, or since `begin`."""
        before = set(self.dumps(pid))
        await self._ask(pid, "dump")
        (found,) = set(self.dumps(pid)) - before
        return totals(found.read_text(errors="replace"))

    def dumps(self, pid: int) -> list[Path]:
        """In the order in which they were written."""
        return sorted(self.folder.glob(f"counts.{pid}.*"), key=lambda path: int(path.suffix[1:]))

    async def _ask(self, pid: int, *command: str) -> None:
        asked = ["vgdb", f"--vgdb-prefix={self.folder}/vgdb", f"--pid={pid}", *command]
        for _ in range(_TRIES):
            done = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                return
            await asyncio.sleep(0.2)  # a process that has just forked cannot be asked yet
        raise RuntimeError(f"callgrind does not answer {' '.join(command)!r}: {done.stderr.strip()[-500:]}")


def require() -> None:
    """Raises NoCallgrind."""
    if shutil.which("valgrind") is None or shutil.which("vgdb") is None:
        raise NoCallgrind("valgrind counts the instructions, and this machine has none: apt-get install valgrind")


def totals(dump: str) -> int:
    """The instructions of one dump. Raises ValueError when the dump is cut short."""
    found = _TOTALS.search(dump)
    if found is None:
        raise ValueError("the dump of callgrind has no totals: the process ended while it wrote them")
    return int(found[1])


@dataclass(frozen=True)
class Spread:
    """The median of several runs, with the least and the most."""

    median: float
    least: float
    most: float

    @property
    def percent(self) -> float:
        """From the least to the most, of the median."""
        return (self.most - self.least) / self.median * 100


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def per_event(few: tuple[int, int], many: tuple[int, int]) -> float:
    """From the events and instructions of two windows: costs of a window, as opposed to an event, cancel out."""
    return (many[1] - few[1]) / (many[0] - few[0])
