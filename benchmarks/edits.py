"""Edits of a live HTTP trigger under load: `python -m benchmarks.edits`, or `make edits`.

A real API server, two replicas of the controller with their gateways, and the Python runtime. Callers on kept
connections send a bounded rate of requests all the time. Blocks of a minute's share of edits take turns with blocks in
which nothing is edited, and with blocks in which a second trigger of the same replicas is edited, which has no callers.
Each edit is followed by a wait, as `kubectl wait --for=condition=Ready` reads the status, and by a request that only
the new spec answers so.

The gateways, the function and the callers have one core; the API server and the benchmark, which edits, have another.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.measure import ROOT
from benchmarks.replicas import SYSTEM, Place, Replica, replicas
from controllers.cluster.api import Api, path_of

sys.path.insert(0, str(ROOT / "tests"))

from servers.kubernetes import api_server
from servers.kubernetes_objects import connected
from servers.live_edits import KINDS, NAME, PATH, Edit, Versions, edits, first_spec, is_ready, secret_of, versions

FABRIC_CORE, CLUSTER_CORE = 0, 1
OTHER, OTHER_SECRET = "others", "others"
AFTER_SECONDS = 1.0  # requests that are due so long after an edit count as its own
BLOCKS = ("edits", "nothing", "edits of another trigger")
VISIBLE_SECONDS = 60.0
GOAL = 1.2
Sample = tuple[float, float, int]  # when it was due, how long it took, the status


@dataclass
class Found:
    """The measurements of one run. Times in seconds of the monotonic clock."""

    edited: dict[str, list[tuple[float, str]]] = field(default_factory=dict)  # by block: when it was answered, its kind
    quiet: list[tuple[float, float]] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)  # by block, CPU seconds of a replica
    lasted: dict[str, float] = field(default_factory=dict)  # by block, in all
    to_ready: list[float] = field(default_factory=list)
    to_all: list[float] = field(default_factory=list)
    at_once: Counter[bool] = field(default_factory=Counter)  # whether a replica had the new spec at Ready
    never: list[str] = field(default_factory=list)  # kinds of edits that no request has seen


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.edits", description=__doc__)
    parser.add_argument("--edits", type=int, default=50, help="of the trigger under load")
    parser.add_argument("--per-minute", type=float, default=50)
    parser.add_argument("--block", type=int, default=8, help="edits in a block: one of each kind")
    parser.add_argument("--rate", type=float, default=50, help="requests a second, of all callers together")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, measured before this one")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, {os.getloadavg()[0]:.1f} of them busy before; all parts share them", flush=True)
    met = True
    for checkout in [ROOT] if given.against is None else [given.against.resolve(), ROOT]:
        print(f"\n{'before' if checkout != ROOT else 'after'}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            met = asyncio.run(_measure(checkout, Path(folder), given))
    return 0 if met else 1


async def _measure(checkout: Path, folder: Path, given: argparse.Namespace) -> bool:
    found = Found()
    _pin(os.getpid(), CLUSTER_CORE)  # and all that it starts, but for what is moved
    async with api_server() as server, connected(server) as api, versions() as code:
        place = Place(server, checkout, folder)
        await _prepare(place, api, code)
        async with replicas(place, "trigger", "http") as running, aiohttp.ClientSession() as session:
            gateways = [_gateway(replica) for replica in running]
            for process in running:
                _pin(process.process.pid, FABRIC_CORE)
            for name in (NAME, OTHER):
                await _until(partial(_is_ready, api, name))
            async with _load(given.rate, given.connections, gateways, folder / "answers"):
                await _blocks(api, session, running, code, given, found)
        samples = list(_samples(folder / "answers"))
    return _show(samples, found, given)


async def _prepare(place: Place, api: Api, code: Versions) -> None:
    server = place.server
    await server.kubectl("apply", "--server-side", "-f", "-", input=place.definitions())
    await server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    await server.kubectl("create", "namespace", SYSTEM)
    url = await _new_code(code)
    other = first_spec(url)
    other["path"] = "/others/{id}"
    other["auth"]["bearer"]["tokens"] = [{"name": OTHER_SECRET, "key": key} for key in ("load", "next")]
    for secret in (secret_of("first"), secret_of("first", OTHER_SECRET)):
        await api.create(secret)
    for name, spec in ((NAME, first_spec(url)), (OTHER, other)):
        head = {"name": name, "namespace": "default"}
        await api.create({"apiVersion": "kubeirq.dev/v1", "kind": "HTTPTrigger", "metadata": head, "spec": spec})


async def _blocks(
    api: Api,
    session: aiohttp.ClientSession,
    running: Sequence[Replica],
    code: Versions,
    given: argparse.Namespace,
    found: Found,
) -> None:
    interval, gateways = 60 / given.per_minute, [_gateway(replica) for replica in running]
    mine, others = edits(), edits()
    left = given.edits
    await asyncio.sleep(3)  # until the connections and processes are warm
    while left > 0:
        count = min(given.block, left)
        left -= count
        for block in BLOCKS:
            began, cpu = time.monotonic(), sum(replica.cpu_seconds for replica in running)
            if block == "nothing":
                await asyncio.sleep(count * interval)
                found.quiet.append((began, time.monotonic()))
            for number in range(count if block != "nothing" else 0):
                await asyncio.sleep(began + number * interval - time.monotonic())
                edit = next(mine if block == "edits" else others)
                if block == "edits":
                    at = await _edit(api, session, gateways, code, edit, found)
                else:
                    at = await _edit_other(api, code, edit)
                found.edited.setdefault(block, []).append((at, edit.kind))
            await asyncio.sleep(AFTER_SECONDS + 0.5)  # the last edit's requests belong to its own block
            used = (sum(replica.cpu_seconds for replica in running) - cpu) / len(running)
            found.used[block] = found.used.get(block, 0.0) + used
            found.lasted[block] = found.lasted.get(block, 0.0) + time.monotonic() - began


async def _new_code(code: Versions) -> str:
    """The address of a new version of the function, which runs."""
    function = await code.start()
    for process in function.family():
        _pin(process.pid, FABRIC_CORE)
    return function.url


def _pin(pid: int, core: int) -> None:
    """Keeps the process on that core, as far as there is one."""
    if core < (os.cpu_count() or 1):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def _gateway(replica: Replica) -> str:
    return f"http://127.0.0.1:{replica.gateway_port}"


async def _edit(
    api: Api, session: aiohttp.ClientSession, gateways: Sequence[str], code: Versions, edit: Edit, found: Found
) -> float:
    """Edits the trigger under load, and returns when the API server had it."""
    spec = edit.spec if edit.kind != "code" else {"url": await _new_code(code)}
    began = time.monotonic()
    await _patch(api, NAME, spec, edit.secret, "callers")
    at = time.monotonic()
    try:
        if not edit.secret:  # which changes no generation
            await _until(lambda: _is_ready(api, NAME))
            found.to_ready.append(time.monotonic() - began)
            found.at_once.update(await asyncio.gather(*(edit.is_served(session, gateway) for gateway in gateways)))
        await _until(lambda: _all_serve(edit, session, gateways))
    except TimeoutError:
        found.never.append(edit.kind)
    found.to_all.append(time.monotonic() - began)
    if edit.kind == "code":
        await code.stop_former()
    return at


async def _edit_other(api: Api, code: Versions, edit: Edit) -> float:
    spec = dict(edit.spec) if edit.kind != "code" else {"description": None, "url": code.running[-1].url}
    if "path" in spec:
        spec["path"] = spec["path"].replace("/orders", "/others")
    spec.pop("description", None)
    await _patch(api, OTHER, spec, edit.secret, OTHER_SECRET)
    at = time.monotonic()
    await _until(lambda: _is_ready(api, OTHER))
    return at


async def _patch(api: Api, name: str, spec: dict[str, Any], secret: dict[str, str], secret_name: str) -> None:
    path, body = path_of("kubeirq.dev/v1", "HTTPTrigger", "default", name), {"spec": spec}
    if secret:
        path, body = path_of("v1", "Secret", "default", secret_name), {"stringData": secret}
    await api.request("PATCH", path, body=body, content_type="application/merge-patch+json")


async def _is_ready(api: Api, name: str) -> bool:
    return is_ready(await api.request("GET", path_of("kubeirq.dev/v1", "HTTPTrigger", "default", name)))


async def _all_serve(edit: Edit, session: aiohttp.ClientSession, gateways: Sequence[str]) -> bool:
    return all(await asyncio.gather(*(edit.is_served(session, gateway) for gateway in gateways)))


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(VISIBLE_SECONDS):
        while not await holds():  # noqa: ASYNC110  the answers of servers have no event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _load(rate: float, connections: int, gateways: Sequence[str], answers: Path) -> AsyncIterator[None]:
    """Callers in a process of their own, as long as the context is open."""
    program = Path(__file__).parent / "programs" / "steady.py"
    with answers.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(program), f"{rate}", f"{connections}", PATH, *gateways,
            stdin=subprocess.PIPE, stdout=out, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )  # fmt: skip
    assert process.stdin is not None
    _pin(process.pid, FABRIC_CORE)
    try:
        yield
    finally:
        process.stdin.close()
        await process.wait()


def _samples(answers: Path) -> Iterator[Sample]:
    for line in answers.read_text().splitlines():
        due, took, status = line.split()
        yield float(due), float(took), int(status)


# --- figures


def _show(samples: Sequence[Sample], found: Found, given: argparse.Namespace) -> bool:
    quiet = [took for due, took, _ in samples if any(begin <= due < end for begin, end in found.quiet)]
    groups = {"without edits": quiet}
    for block, times in found.edited.items():
        name = f"within {AFTER_SECONDS:.0f} s of {block}"
        groups[name] = list(_after(samples, [at for at, _ in times]))
    statuses = Counter(status for _, _, status in samples)
    failed = sum(count for status, count in statuses.items() if not 200 <= status <= 299)
    print(f"  requests: {len(samples)}, of {given.connections} callers; not answered 2xx: {failed} {dict(statuses)}")
    for name, latencies in groups.items():
        ratio = (
            "" if name == "without edits" else f"; ratio {_percentile(latencies, 0.99) / _percentile(quiet, 0.99):.2f}"
        )
        print(f"  {name}: {len(latencies)} requests, {_text(latencies)}{ratio}")
    for kind in KINDS:
        latencies = list(_after(samples, [at for at, found_kind in found.edited["edits"] if found_kind == kind]))
        if latencies:
            print(f"    {kind}: {len(latencies)} requests, {_text(latencies)}")
    resting = found.used["nothing"] / found.lasted["nothing"]
    for block, times in found.edited.items():
        each = (found.used[block] - resting * found.lasted[block]) / len(times)
        print(f"  {block}: {each * 1000:.0f} ms of a replica's CPU for each edit")
    print(f"  from an edit to Ready: {len(found.to_ready)} edits, {_text(found.to_ready)}")
    print(f"  from an edit to every replica: {len(found.to_all)} edits, {_text(found.to_all)}")
    print(f"  at Ready, replicas with the new spec: {found.at_once[True]} of {found.at_once.total()}")
    print(f"  edits that were never served: {', '.join(found.never) or 'none'}", flush=True)
    edited = groups.get(f"within {AFTER_SECONDS:.0f} s of edits", [])
    return not failed and not found.never and _percentile(edited, 0.99) <= GOAL * _percentile(quiet, 0.99)


def _after(samples: Sequence[Sample], times: Sequence[float]) -> Iterator[float]:
    """The latencies of the requests that were due just after one of these times."""
    return (took for due, took, _ in samples if any(at <= due < at + AFTER_SECONDS for at in times))


def _text(seconds: Sequence[float]) -> str:
    return f"p50 {statistics.median(seconds) * 1000:.0f} ms, p99 {_percentile(seconds, 0.99) * 1000:.0f} ms"


def _percentile(seconds: Sequence[float], share: float) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, round(share * len(ordered)))]


if __name__ == "__main__":
    sys.exit(main())
