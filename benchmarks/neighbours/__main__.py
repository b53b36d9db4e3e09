"""Measures what a hostile tenant costs the others: `python -m benchmarks.neighbours [--rounds N]`, `make neighbours`.

Twenty tenants have a namespace each, on a real API server with real controllers. In one half of each round the hostile
one acts, in the other half a bystander uses as much CPU as it caused. The times of the others with it may be 1.5 times
those with the bystander, at the 99th percentile, in the median of the rounds, and no controller may end. The exit code
is 1 where that does not hold, and 2 where the machine is too busy to tell.
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import nats
import psutil
from servers.kubernetes import MORTAL, api_server
from servers.kubernetes_objects import connected
from servers.nats import nats_server
from servers.ports import free_port
from servers.scripted import scripted

from benchmarks.measure import ROOT
from benchmarks.neighbours import hostile
from benchmarks.neighbours.probes import Probes
from benchmarks.neighbours.verdict import Round, Times, faults, next_share, percentile, ratios, says_nothing
from benchmarks.replicas import SYSTEM, Place, Replica, replicas
from controllers.cluster.api import Api, Object

TEAMS = [f"team-{number:02}" for number in range(1, 20)]  # beside the hostile one
BYSTANDER = Path(__file__).with_name("bystander.py")
BYSTANDERS = 4  # as many processes as share the hostile tenant's work, so that a busy scheduler treats both alike
WARM_SECONDS = 6.0
CALM_SECONDS = 1.5  # after the hostile tenant, whose last events are still under way
READY_SECONDS = 180.0
SILENT_SECONDS = 60.0  # the chart's liveness probe ends a controller that does not answer for so long


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.neighbours", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=7, help="the length of each half of a round")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="where the controllers' logs are kept")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, {os.getloadavg()[0]:.1f} of them busy before; all parts share them", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_measure(folder, given.rounds, given.seconds))


async def _measure(folder: Path, rounds: int, seconds: float) -> int:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(api_server())
        api = await stack.enter_async_context(connected(server))
        broker = await stack.enter_async_context(nats_server())
        client = await nats.connect(broker.url)
        stack.push_async_callback(client.close)
        place = Place(server, ROOT, folder)
        await server.kubectl("apply", "--server-side", "-f", "-", input=place.definitions())
        await server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        servers = {"KUBEIRQ_STORE_NATS_SERVERS": broker.url, "KUBEIRQ_NATS_SERVERS": broker.url}
        for namespace in (SYSTEM, hostile.TEAM, *TEAMS):
            await server.kubectl("create", "namespace", namespace)
        running: list[Replica] = []
        for command in (("functions",), ("trigger", "http"), ("trigger", "nats")):
            running += await stack.enter_async_context(replicas(place, *command, names=("one",), **servers))
        probes = Probes(api, client, running[1].gateway_port, TEAMS)
        function = await stack.enter_async_context(scripted(probes.decide))
        settings = hostile.Settings(str(server.kubeconfig), running[1].gateway_port, broker.url, free_port())
        for resource in [*hostile.resources(settings.function_port), *_resources(function.url)]:
            await api.create(resource)
        await _until_ready(api)
        silences = stack.enter_context(_Silences(running))
        found = await _rounds(probes, settings, running, rounds, seconds)
        await silences.stop()
        return _judged(found, probes.problems, silences, running)


async def _rounds(
    probes: Probes, settings: hostile.Settings, running: Sequence[Replica], rounds: int, seconds: float
) -> list[Round]:
    """Short rounds, with the halves in turn first, so that other load on the machine meets both alike."""
    found: list[Round] = []
    async with _process("-m", "benchmarks.neighbours.hostile", settings.text()) as attacker:
        await probes.run(WARM_SECONDS, {})  # for connections and caches
        attacker.send_signal(signal.SIGSTOP)
        await probes.run(CALM_SECONDS, {})
        share = 0.5  # cores; the first round finds out, and does not count
        for number in range(rounds + 1):
            this, total, rest = Round(), 0.0, 0.0
            for half in ("hostile", "bystander") if number % 2 else ("bystander", "hostile"):
                if half == "hostile":
                    total = await _beside_the_hostile(attacker, probes, seconds, this.hostile)
                else:
                    before = [_ran_and_waited(replica) for replica in running]
                    this.burnt, rest = await _beside_bystanders(share, probes, seconds, this.bystander)
                    this.waiting = _waiting(before, [_ran_and_waited(replica) for replica in running])
            this.taken = max(0.0, total - rest)
            share = next_share(share, this.burnt, this.taken)
            if number:
                found.append(this)
    taken, burnt = _text([one.taken for one in found]), _text([one.burnt for one in found])
    waiting = statistics.median(one.waiting for one in found)
    print(f"cores, by round: hostile tenant {taken}; bystander {burnt}")
    print(f"beside the bystander, the controllers waited for a core for {waiting:.0%} of their time", flush=True)
    return found


async def _beside_the_hostile(
    attacker: asyncio.subprocess.Process, probes: Probes, seconds: float, times: Times
) -> float:
    """The cores that all used."""
    attacker.send_signal(signal.SIGCONT)
    try:
        return (await _cores_used(probes, seconds, times, []))[0]
    finally:
        attacker.send_signal(signal.SIGSTOP)
        await probes.run(CALM_SECONDS, {})


async def _beside_bystanders(share: float, probes: Probes, seconds: float, times: Times) -> tuple[float, float]:
    """The cores that the bystanders used, and those that all others did."""
    async with AsyncExitStack() as stack:
        start = (_process(str(BYSTANDER), str(share / BYSTANDERS)) for _ in range(BYSTANDERS))
        running = [await stack.enter_async_context(one) for one in start]
        total, burnt = await _cores_used(probes, seconds, times, [one.pid for one in running])
    return burnt, total - burnt


def _text(figures: Sequence[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in figures)


async def _cores_used(probes: Probes, seconds: float, times: Times, pids: Sequence[int]) -> tuple[float, float]:
    """Runs the probes, and adds their times. Returns the cores that all child processes used, and those of `pids`."""
    began, before = time.monotonic(), _cpu_seconds()
    await probes.run(seconds, times)
    passed, after = time.monotonic() - began, _cpu_seconds()
    used = {pid: after[pid] - before.get(pid, 0.0) for pid in after}
    return sum(used.values()) / passed, sum(used.get(pid, 0.0) for pid in pids) / passed


def _ran_and_waited(replica: Replica) -> tuple[int, int]:
    """How long its event loop ran, and waited for a core, in nanoseconds."""
    try:
        ran, waited, _ = Path(f"/proc/{replica.process.pid}/schedstat").read_text().split()
    except FileNotFoundError:
        return 0, 0  # it has ended, which the verdict says, or the kernel does not count
    return int(ran), int(waited)


def _waiting(before: Sequence[tuple[int, int]], after: Sequence[tuple[int, int]]) -> float:
    ran, waited = (sum(each[part] for each in after) - sum(each[part] for each in before) for part in (0, 1))
    return waited / (ran + waited) if ran + waited > 0 else 0.0


def _cpu_seconds() -> dict[int, float]:
    """Of each process below this one."""
    used = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used[process.pid] = times.user + times.system
    return used


@asynccontextmanager
async def _process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*MORTAL, sys.executable, *arguments, cwd=ROOT)
    try:
        yield process
        if process.returncode is not None:
            raise SystemExit(f"{' '.join(arguments)} has ended by itself")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class _Silences:
    """Asks the controllers whether they live, and keeps the longest time without an answer."""

    def __init__(self, running: Sequence[Replica]) -> None:
        self.longest = 0.0
        self._running = running

    def __enter__(self) -> "_Silences":
        self._tasks = [asyncio.create_task(self._ask(replica)) for replica in self._running]
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        self.__exit__()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, replica: Replica) -> None:
        answered = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SILENT_SECONDS)) as session:
            while True:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"http://127.0.0.1:{replica.port}/healthz") as answer:
                        await answer.read()
                        self.longest = max(self.longest, time.monotonic() - answered)
                await asyncio.sleep(0.2)
                answered = time.monotonic()


def _judged(rounds: Sequence[Round], problems: Sequence[str], silences: _Silences, running: Sequence[Replica]) -> int:
    print(
        "\n| of the other tenants | number | p50, bystander | p50, hostile | p99, bystander | p99, hostile | ratios |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, each in ratios(rounds).items():
        halves = [[one.bystander[name] for one in rounds], [one.hostile[name] for one in rounds]]
        figures = [
            statistics.median(percentile(times, part) for times in half) for part in (0.5, 0.99) for half in halves
        ]
        shown = " | ".join(f"{seconds * 1000:.0f} ms" for seconds in figures)
        number = sum(map(len, halves[1]))
        print(f"| {name} | {number} | {shown} | median {statistics.median(each):.2f} of {_text(each)} |")
    ended = [f"{replica.login} has ended" for replica in running if replica.process.returncode is not None]
    if not ended:
        peaks = ", ".join(f"{replica.login} {replica.peak_mib:.0f} MiB" for replica in running)
        print(f"\npeak memory: {peaks}; the longest silence of a controller: {silences.longest:.1f} s")
    if silences.longest >= SILENT_SECONDS:
        ended.append(f"a controller was silent for {silences.longest:.0f} s")
    if not ended and (reason := says_nothing(rounds)):
        print(f"\nno verdict: {reason}")
        return 2
    failures = [*ended, *faults(rounds, problems)]
    print("\n" + ("\n".join(failures) or "the hostile tenant costs the others no more than the bystander does"))
    return 1 if failures else 0


def _resources(function_url: str) -> list[Object]:
    code = "def handler(event, context): ...\n"
    return [
        {**found, "metadata": {"name": found["metadata"]["name"], "namespace": team}}
        for team in TEAMS
        for found in (
            hostile.resource("Function", "f", {"source": {"inline": code}}),
            hostile.resource("HTTPTrigger", "calls", {"url": function_url, "path": f"/{team}/calls"}),
            hostile.resource("HTTPTrigger", "edited", {"url": function_url, "path": f"/{team}/edited"}),
            hostile.resource(
                "NATSTrigger", "events", {"url": function_url, "subject": f"{team}.events", "createStream": True}
            ),
        )
    ]


async def _until_ready(api: Api) -> None:
    """Waits for all triggers of the tenants, and calls each Deployment ready: there is no node."""
    async with asyncio.timeout(READY_SECONDS):
        for team in TEAMS:
            for kind in ("HTTPTrigger", "NATSTrigger"):
                await _until(api, "kubeirq.dev/v1", kind, team, lambda found: all(map(_is_ready, found)))
        for team in (*TEAMS, hostile.TEAM):
            for deployment in await _until(api, "apps/v1", "Deployment", team, bool):
                await _call_ready(api, deployment)


async def _call_ready(api: Api, deployment: Object) -> None:
    metadata = deployment["metadata"]
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    status = {"status": {"observedGeneration": metadata["generation"], **counts}}
    path = f"/apis/apps/v1/namespaces/{metadata['namespace']}/deployments/{metadata['name']}/status"
    await api.request("PATCH", path, body=status, content_type="application/merge-patch+json")


async def _until(
    api: Api, version: str, kind: str, namespace: str, holds: Callable[[Sequence[Object]], bool]
) -> Sequence[Object]:
    while not holds(found := await api.list(version, kind, namespace)):  # noqa: ASYNC110  there is no event for this
        await asyncio.sleep(0.2)
    return found


def _is_ready(found: Object) -> bool:
    conditions = found.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


if __name__ == "__main__":
    sys.exit(main())
