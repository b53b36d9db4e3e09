"""Measures what a hostile tenant costs the others: `python -m benchmarks.neighbours [--rounds N]`, `make neighbours`.

Twenty tenants have a namespace each, on a real API server with real controllers. In each round the hostile one acts for
a while, and then a bystander uses as much CPU as it caused. The times of the others with it may be 1.5 times those with
the bystander, at the 99th percentile, and no controller may end. The exit code is 1 where that does not hold, and 2
where the machine is too busy to tell.
"""

import argparse
import asyncio
import math
import os
import signal
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
from benchmarks.neighbours.verdict import Rounds, Times, faults, percentile
from benchmarks.replicas import SYSTEM, Place, Replica, replicas
from controllers.cluster.api import Api, Object

TEAMS = [f"team-{number:02}" for number in range(1, 20)]  # beside the hostile one
BYSTANDER = Path(__file__).with_name("bystander.py")
WARM_SECONDS = 8.0
QUIET_SECONDS = 3.0  # for the CPU without the hostile tenant
CALM_SECONDS = 1.0
READY_SECONDS = 180.0
SILENT_SECONDS = 60.0  # the chart's liveness probe ends a controller that does not answer for so long


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.neighbours", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=8, help="the length of each half of a round")
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
        found = await _rounds(probes, settings, rounds, seconds)
        await silences.stop()
        return _judged(found, probes.problems, silences, running)


async def _rounds(probes: Probes, settings: hostile.Settings, rounds: int, seconds: float) -> Rounds:
    """Short rounds, so that other load on the machine meets both halves alike."""
    found = Rounds()
    async with _process("-m", "benchmarks.neighbours.hostile", settings.text()) as attacker:
        await probes.run(WARM_SECONDS, {})  # for connections and caches
        for _ in range(rounds):
            cores = await _cores_used(probes, seconds, found.hostile)
            attacker.send_signal(signal.SIGSTOP)
            quiet = await _cores_used(probes, QUIET_SECONDS, {})
            share = max(0.0, cores - quiet)
            async with AsyncExitStack() as stack:
                processes = max(1, math.ceil(share))
                for _ in range(processes):
                    await stack.enter_async_context(_process(str(BYSTANDER), str(share / processes)))
                found.burnt.append(await _cores_used(probes, seconds, found.bystander) - quiet)
            found.taken.append(share)
            attacker.send_signal(signal.SIGCONT)
            await probes.run(CALM_SECONDS, {})
    print(f"cores, by round: hostile tenant {_text(found.taken)}; bystander {_text(found.burnt)}", flush=True)
    return found


def _text(cores: Sequence[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in cores)


async def _cores_used(probes: Probes, seconds: float, times: Times) -> float:
    """Runs the probes, and adds their times. Returns how many cores all child processes used meanwhile."""
    began, before = time.monotonic(), _cpu_seconds()
    await probes.run(seconds, times)
    return (_cpu_seconds() - before) / (time.monotonic() - began)


def _cpu_seconds() -> float:
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system
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


def _judged(found: Rounds, problems: Sequence[str], silences: _Silences, running: Sequence[Replica]) -> int:
    print("\n| of the other tenants | number | p50, bystander | p50, hostile | p99, bystander | p99, hostile | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, times in found.hostile.items():
        figures = [percentile(some, part) for part in (0.5, 0.99) for some in (found.bystander[name], times)]
        shown = " | ".join(f"{seconds * 1000:.0f} ms" for seconds in figures)
        print(f"| {name} | {len(times)} | {shown} | {figures[3] / figures[2]:.2f} |")
    ended = [f"{replica.login} has ended" for replica in running if replica.process.returncode is not None]
    if not ended:
        peaks = ", ".join(f"{replica.login} {replica.peak_mib:.0f} MiB" for replica in running)
        print(f"\npeak memory: {peaks}; the longest silence of a controller: {silences.longest:.1f} s")
    if silences.longest >= SILENT_SECONDS:
        ended.append(f"a controller was silent for {silences.longest:.0f} s")
    if not ended and found.says_nothing:
        print(f"\nno verdict: {found.says_nothing}")
        return 2
    failures = [*ended, *faults(found, problems)]
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
