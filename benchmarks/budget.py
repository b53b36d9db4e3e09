"""Where the instructions of an event go: `python -m benchmarks budget [ROW ...]`.

The functions in PLACES are marked while some events go through. Callgrind writes a dump at each mark, so that each dump
belongs to one phase. Empty calls measure the cost of the marks, which is taken off. The phase `other` is the rest of an
event's instructions, which are counted without marks.
"""

import argparse
import asyncio
import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.callgrind import Callgrind, NoCallgrind, require, totals
from benchmarks.far_side import calm
from benchmarks.rows import PROGRAMS
from benchmarks.under_test import HERE, PROCESSES, Start

OTHER = "other"  # the rest: the loop, the kernel, timers
_EVENTS = 512
_WARM = 1_024
_EMPTY_CALLS = 200
_SECONDS = 60.0
_DISPATCH = {
    "lane": ["trigger_sources.dispatch.dispatcher:Dispatcher.take"],
    "call": ["trigger_sources.dispatch.dispatcher:call_of", "trigger_sources.transport.client:Endpoint.start"],
    "write": ["trigger_sources.transport.connection:Connection.start"],
    "parse": ["trigger_sources.transport.connection:Connection.data_received"],
}
# The callback of `Endpoint.start` belongs to the phase `settle`; instructions outside of all phases are `other`
PLACES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "kafka": {
        "fetch": ["trigger_sources.kafka.fetching:Fetching.read"],
        "event": ["trigger_sources.kafka.member:Member.read"],
        **_DISPATCH,
        "settle": ["trigger_sources.kafka.partition:Partition.settle"],
        "commit": ["trigger_sources.kafka.commits:Commits.commit"],
    },
    "jetstream": {
        "fetch": [
            "nats.aio.client:Client._read_loop",
            "trigger_sources.nats.pull:Pull._came",
            "trigger_sources.nats.pull:Pull.read",
        ],
        "event": ["trigger_sources.nats.jetstream:Consumption.read"],
        **_DISPATCH,
        "settle": ["trigger_sources.nats.jetstream:Consumption._settle"],
        "commit": ["trigger_sources.nats.pull:Pull.acknowledge", "nats.aio.client:Client._flusher"],
    },
    "runtime": {
        "parse": ["kubeirq_runtime.connection:Connection.data_received"],
        "lane": ["kubeirq_runtime.calls:Calls.accept"],
        "event": ["kubeirq_runtime.calls:event_from"],
        "call": ["tiny:handler"],
        "settle": ["kubeirq_runtime.calls:Calls._finish", "kubeirq_runtime.calls:answer_from"],
        "write": ["kubeirq_runtime.connection:Connection.respond"],
    },
}


async def budget(row: str) -> dict[str, float]:
    """Instructions for each event, by phase."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        marks = folder / "marks"
        callgrind = Callgrind(folder, ["--dump-before=getpriority"])
        phases = [f"{phase}={','.join(places)}" for phase, places in PLACES[row].items()]
        start = Start(
            HERE, _WARM + 2 * _EVENTS, folder, wrap=callgrind.command,
            launcher=[str(PROGRAMS / "phases.py"), str(marks), str(_EMPTY_CALLS), *phases, "--"], patient=True,
        )  # fmt: skip
        async with PROCESSES[row](start) as process:
            await callgrind.begin(process.pid)
            await process.let(_WARM)
            await callgrind.count(process.pid)
            await process.let(_EVENTS)
            total = await callgrind.count(process.pid) / _EVENTS
            before = len(callgrind.dumps(process.pid))
            os.kill(process.pid, signal.SIGUSR2)
            await calm(process.pid)
            await process.let(_EVENTS)
            os.kill(process.pid, signal.SIGUSR2)
            await asyncio.to_thread(_wait_for, marks)
            await calm(process.pid)
            dumps = callgrind.dumps(process.pid)[before:]
            counts = [totals(dump.read_text(errors="replace")) for dump in dumps]
        found = by_phase(marks.read_text().splitlines(), counts, _EMPTY_CALLS, _EVENTS)
        return {**found, OTHER: total - sum(found.values())}


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no marks after {_SECONDS:g} s: did the process end?")
        time.sleep(0.05)


def by_phase(marks: Sequence[str], counts: Sequence[int], empty_calls: int, events: int) -> dict[str, float]:
    """Instructions for each event, by phase, without those of the marks and of what is in no phase.

    `counts` has the instructions before each mark. The first marks are those of the empty calls.
    """
    empty = counts[: 2 * empty_calls]
    inside = sum(empty[1::2]) / empty_calls
    around = sum(empty[2::2]) / (empty_calls - 1)
    found: dict[str, float] = {}
    # the first one ends what came before the events
    for mark, count in list(zip(marks, counts, strict=False))[2 * empty_calls + 1 :]:
        phase, way = mark.split()
        found[phase] = found.get(phase, 0.0) + count - (inside if way == "leaves" else around)
    found.pop(OTHER, None)
    return {phase: total / events for phase, total in found.items()}


def table(found: Mapping[str, float], phases: Sequence[str]) -> list[str]:
    """Rows of a Markdown table, in the order of an event's way."""
    total = sum(found.values())
    lines = ["| phase | instructions | share |", "| --- | --- | --- |"]
    lines += [
        f"| {phase} | {_spaced(found[phase])} | {found[phase] / total * 100:.0f} % |"
        for phase in (*phases, OTHER)
        if phase in found
    ]
    return [*lines, f"| all | {_spaced(total)} | |"]


def _spaced(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ")


def _missing(row: str) -> list[str]:
    sys.path += [str(PROGRAMS), str(HERE.folder / "runtimes/python")]
    missing = []
    for place in (place for places in PLACES[row].values() for place in places):
        module, _, path = place.partition(":")
        try:
            owner = importlib.import_module(module)
            for name in path.split("."):
                owner = getattr(owner, name)
        except (ImportError, AttributeError):
            missing.append(place)
    return missing


def main(arguments: Sequence[str]) -> int:
    import uvloop

    parser = argparse.ArgumentParser(prog="benchmarks budget", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(PLACES)}; all when none is named")
    found = parser.parse_args(arguments)
    unknown = [name for name in found.rows if name not in PLACES]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; known: {', '.join(PLACES)}")
    rows = found.rows or list(PLACES)
    if missing := [place for row in rows for place in _missing(row)]:
        print(f"benchmarks/budget.py: PLACES: no {', '.join(missing)}; name the function that does it now")
        return 2
    try:
        require()
    except NoCallgrind as problem:
        print(problem, file=sys.stderr)
        return 2
    for row in rows:
        print(row, *table(uvloop.run(budget(row)), list(PLACES[row])), "", sep="\n", flush=True)
    return 0
