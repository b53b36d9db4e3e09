"""Pins processes to a core, measures their use, and compares the figures round by round."""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

CLIENT_CORE, SERVER_CORE = 0, 1
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Figures:
    """One contestant in one round."""

    per_second: float
    cpu_us: float  # CPU microseconds for each request or event, of the process under test and its children
    memory: "Memory"  # at the end, of the same processes


@dataclass(frozen=True)
class Memory:
    """The memory of several processes. Pages that forks share count for each process in resident, and once in own."""

    resident_mb: float
    own_mb: float


@dataclass(frozen=True)
class Contestant:
    name: str
    run: Callable[[], Figures]


@dataclass(frozen=True)
class Row:
    """The contestants of one comparison; the first is kubeirq. `goals` are the least ratios of their rates."""

    title: str
    contestants: Sequence[Contestant]
    goals: Mapping[str, float]
    by_cpu: bool = False  # compare CPU for each request (theirs / ours) instead of rates
    memory_goal_mb: float | None = None  # of own memory


def compare(row: Row, rounds: int) -> bool:
    """Runs and prints one row. Returns whether every goal was met."""
    figures: dict[str, list[Figures]] = {contestant.name: [] for contestant in row.contestants}
    for number in range(rounds):
        for contestant in row.contestants:
            _progress(f"  {row.title}: round {number + 1} of {rounds}, {contestant.name}")
            figures[contestant.name].append(contestant.run())
    _progress("")
    print(row.title)
    print(f"  {'':28}{'per second':>12}{'CPU µs each':>13}{'RSS MB':>8}{'PSS MB':>8}   ratio (min to max), goal")
    ours = figures[row.contestants[0].name]
    met = True
    for contestant in row.contestants:
        theirs = figures[contestant.name]
        line = f"  {contestant.name:28}{_median(f.per_second for f in theirs):>12,.0f}"
        line += f"{_median(f.cpu_us for f in theirs):>13.1f}{_median(f.memory.resident_mb for f in theirs):>8.0f}"
        line += f"{_median(f.memory.own_mb for f in theirs):>8.0f}"
        if theirs is not ours:
            by_cpu = [t.cpu_us / o.cpu_us for o, t in zip(ours, theirs, strict=True)]
            by_rate = [o.per_second / t.per_second for o, t in zip(ours, theirs, strict=True)]
            ratios = by_cpu if row.by_cpu else by_rate
            ratio = statistics.median(ratios)
            goal = row.goals.get(contestant.name)
            line += f"   {ratio:.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"
            if not row.by_cpu:
                line += f", CPU {statistics.median(by_cpu):.1f}x"
            if goal is not None:
                line += f", goal {goal:g}x: {'met' if ratio >= goal else 'NOT MET'}"
                met = met and ratio >= goal
        elif row.memory_goal_mb is not None:
            fits = _median(f.memory.own_mb for f in theirs) <= row.memory_goal_mb
            line += f"   goal ≤ {row.memory_goal_mb:g} MB: {'met' if fits else 'NOT MET'}"
            met = met and fits
        print(line)
    print(flush=True)
    return met


@contextmanager
def process(
    command: Sequence[str],
    core: int,
    env: Mapping[str, str] | None = None,
    folder: Path = ROOT,
    log: Path = Path(os.devnull),
) -> Iterator[psutil.Process]:
    """Runs a process and its children on one core, and stops them by pid at the end."""
    pinned = ["taskset", "-c", str(core), *command] if shutil.which("taskset") else list(command)
    with (
        log.open("wb") as output,
        subprocess.Popen(
            pinned, env={**os.environ, **(env or {})}, cwd=folder, stdout=output, stderr=subprocess.STDOUT
        ) as started,
    ):
        found = psutil.Process(started.pid)
        try:
            yield found
        finally:
            family = _family(found)
            for member in family:
                with_grace(member.terminate)
            _, alive = psutil.wait_procs(family, timeout=10)
            for member in alive:
                with_grace(member.kill)


def with_grace(act: Callable[[], None]) -> None:
    try:
        act()
    except psutil.NoSuchProcess:
        return


def cpu_seconds(of: psutil.Process) -> float:
    """User and system time of a process and its children, including children that have ended."""
    total = 0.0
    for member in _family(of):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory(of: psutil.Process) -> Memory:
    """The memory of a process and its children."""
    resident = own = 0
    for member in _family(of):
        try:
            found = member.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        resident += found.rss
        own += getattr(found, "pss", found.uss)  # only Linux has the proportional size
    return Memory(resident / 1e6, own / 1e6)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nothing listens on port {port} after {seconds} s")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def measured(of: psutil.Process, count: Callable[[], int], total: int, seconds: float) -> Figures:
    """The rate from a tenth of `total` until nearly all have arrived or time is up, with CPU and memory of `of`."""
    deadline = time.monotonic() + 60
    while count() < total / 10:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count()} of {total} events arrived within a minute")
        time.sleep(0.05)
    first, started, cpu = count(), time.monotonic(), cpu_seconds(of)
    while (now := count()) < total * 0.95 and time.monotonic() - started < seconds:
        time.sleep(0.1)  # each request for the count costs CPU too
    took = time.monotonic() - started
    events = max(1, now - first)
    return Figures(events / took, (cpu_seconds(of) - cpu) / events * 1e6, memory(of))


def loaded(command: Sequence[str]) -> Mapping[str, float]:
    """Runs `benchmarks.programs.load` on the client's core, and returns its figures."""
    pinned = ["taskset", "-c", str(CLIENT_CORE), *command] if shutil.which("taskset") else list(command)
    found: Mapping[str, float] = json.loads(subprocess.run(pinned, cwd=ROOT, check=True, capture_output=True).stdout)
    return found


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"{text:<110}", end="\r", file=sys.stderr, flush=True)


def _family(of: psutil.Process) -> list[psutil.Process]:
    try:
        return [of, *of.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _median(values: Iterator[float]) -> float:
    return statistics.median(list(values))
