"""Instructions and CPU for each event, of this checkout and of another: a measure that noise does not touch.

`python -m benchmarks instructions [ROW ...] [--against FOLDER]`. Ends with 1 when an event costs more than it may.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.callgrind import Callgrind, NoCallgrind, Spread, per_event, require, spread
from benchmarks.far_side import cpu_seconds
from benchmarks.measure import CLIENT_CORE, SERVER_CORE
from benchmarks.rows import PROGRAMS
from benchmarks.under_test import HERE, IN_FLIGHT, PROCESSES, Checkout, Start

MOST = 1.03  # instructions for each event, compared with the other checkout
_FEW = 512  # the number of records that Kafka's trigger takes at once
_MANY = {"kafka": 7_680, "jetstream": 3_584, "runtime": 3_584}
_NATIVE = 8_192  # events in a round of CPU
_LAUNCHER = str(PROGRAMS / "unhurried.py")


@dataclass(frozen=True)
class Result:
    instructions: Spread
    cpu_us: Spread


async def instructions(row: str, checkout: Checkout, core: int) -> float:
    """For each event, from one run."""
    few, many = _FEW, _MANY[row]
    with tempfile.TemporaryDirectory() as folder:
        callgrind = Callgrind(Path(folder))
        start = Start(
            checkout, 2 * few + many, Path(folder), core, callgrind.command,
            () if row == "runtime" else (_LAUNCHER,), patient=True,
        )  # fmt: skip
        async with PROCESSES[row](start) as process:
            await callgrind.begin(process.pid)
            found = []
            for events in (few, few, many):  # the first ones warm up
                await process.let(events)
                found.append((events, await callgrind.count(process.pid)))
            return per_event(found[1], found[2])


async def cpu_us(row: str, checkouts: Sequence[Checkout], rounds: int) -> list[list[float]]:
    """CPU microseconds for each event, of each checkout, in rounds that take turns."""
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        processes = []
        for checkout in checkouts:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            start = Start(checkout, (rounds + 1) * _NATIVE, folder)
            processes.append(await stack.enter_async_context(PROCESSES[row](start)))
        found: list[list[float]] = [[] for _ in processes]
        for number in range(rounds + 1):
            for process, times in zip(processes, found, strict=True):
                before = cpu_seconds(process.pid)
                await process.let(_NATIVE)
                if number:  # the first round warms up
                    times.append((cpu_seconds(process.pid) - before) / _NATIVE * 1e6)
        return found


async def measure(row: str, checkouts: Sequence[Checkout], runs: int, rounds: int) -> list[Result]:
    counts: list[list[float]] = [[] for _ in checkouts]
    for _ in range(runs):
        cores = (CLIENT_CORE, SERVER_CORE)
        beside = (instructions(row, checkout, cores[n % 2]) for n, checkout in enumerate(checkouts))
        for values, value in zip(counts, await asyncio.gather(*beside), strict=True):
            values.append(value)
    times = await cpu_us(row, checkouts, rounds)
    return [Result(spread(count), spread(time)) for count, time in zip(counts, times, strict=True)]


def lines_of(row: str, checkouts: Sequence[str], results: Sequence[Result]) -> list[str]:
    """One line for each checkout. The last one is what the others are compared with."""
    lines = []
    base = results[-1]
    for name, found in zip(checkouts, results, strict=True):
        line = f"{row:<10} {name:<16} {found.instructions.median:>12,.0f} ± {found.instructions.percent / 2:.2f} %"
        line += f" {found.cpu_us.median:>9.1f} ({found.cpu_us.least:.1f} to {found.cpu_us.most:.1f})"
        if found is not base:
            ratio = found.instructions.median / base.instructions.median
            line += f"   {ratio:.3f}x: {'met' if ratio <= MOST else 'NOT MET'}"
            line += f", CPU {found.cpu_us.median / base.cpu_us.median:.2f}x"
        lines.append(line)
    return lines


def is_met(results: Sequence[Result]) -> bool:
    return results[0].instructions.median <= MOST * results[-1].instructions.median


async def _main(rows: Sequence[str], checkouts: Sequence[Checkout], runs: int, rounds: int) -> bool:
    print(f"{'':27} {'instructions':>12}{'':9} {'CPU µs':>9}   for each event; at most {MOST:g}x of the other checkout")
    met = True
    for row in rows:
        results = await measure(row, checkouts, runs, rounds)
        print("\n".join(lines_of(row, [checkout.name for checkout in checkouts], results)), flush=True)
        met = met and is_met(results)
    return met


def main(arguments: Sequence[str]) -> int:
    import uvloop

    parser = argparse.ArgumentParser(prog="benchmarks instructions", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(PROCESSES)}; all when none is named")
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="another checkout, installed with `make install`"
    )
    parser.add_argument("--runs", type=int, default=3, help="processes whose instructions are counted (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of CPU (default 5)")
    found = parser.parse_args(arguments)
    unknown = [name for name in found.rows if name not in PROCESSES]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; known: {', '.join(PROCESSES)}")
    checkouts = [HERE]
    if found.against is not None:
        other = Checkout(found.against.resolve(), "the other")
        if not Path(other.python).exists():
            parser.error(f"--against: {other.python} is missing; run `make install` there")
        checkouts.append(other)
    try:
        require()
    except NoCallgrind as problem:
        print(problem, file=sys.stderr)
        return 2
    assert _FEW % IN_FLIGHT == 0
    assert _NATIVE % IN_FLIGHT == 0
    met: bool = uvloop.run(_main(found.rows or list(PROCESSES), checkouts, found.runs, found.rounds))
    return 0 if met else 1
