"""Measures the cost of controllers with many resources: `python -m benchmarks.controllers [--functions N] …`.

It uses a real API server without nodes. The benchmark stands in for the nodes, and marks every Deployment as ready.
Each replica is a process with its own login, so that the audit log shows its requests. The fabric's data is in a real
NATS server.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from benchmarks.measure import ROOT, cpu_seconds, memory
from controllers.cluster.api import Api, Object
from controllers.definitions.crds import crds

sys.path.insert(0, str(ROOT / "tests"))

from servers.kubernetes import MORTAL, WRITES, APIServer, api_server
from servers.nats import nats_server
from servers.ports import free_port

SYSTEM, NAMESPACE = "kubeirq-system", "default"
AT_ONCE = 32
MOST_SECONDS = 300.0  # for each step
REPLICAS = ("one", "two")


@dataclass
class Running:
    """One replica of a controller."""

    login: str
    log: Path
    started: asyncio.subprocess.Process
    process: psutil.Process


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.controllers", description=__doc__)
    parser.add_argument("--functions", type=int, default=1_000)
    parser.add_argument("--triggers", type=int, default=1_000, help="cron triggers of a plain URL, due in years")
    parser.add_argument("--rest", type=float, default=60, help="seconds at rest")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="where the replicas' logs are kept")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, {os.getloadavg()[0]:.1f} of them busy before; all parts share them\n")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.logs is not None:
            arguments.logs.mkdir(parents=True, exist_ok=True)
        logs = arguments.logs or Path(folder)
        asyncio.run(_measure(logs, arguments.functions, arguments.triggers, arguments.rest))
    return 0


async def _measure(folder: Path, functions: int, triggers: int, rest: float) -> None:
    async with api_server() as server, _connected(server) as api:
        await server.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(crds()))
        await server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        await server.kubectl("create", "namespace", SYSTEM)
        if functions:
            await _functions(server, api, folder, functions, rest)
        if triggers:
            await _triggers(server, api, folder, triggers, rest)


async def _functions(server: APIServer, api: Api, folder: Path, count: int, rest: float) -> None:
    print(f"{count} Functions, {len(REPLICAS)} replicas of their controller")
    async with _replicas(server, folder, "functions") as replicas:
        began = time.monotonic()
        await _each((_function(number) for number in range(count)), api.create)
        print(f"  written by a client after {time.monotonic() - began:.1f} s")
        await _until(lambda: _count(api, "kubeirq.dev/v1", "Function", _is_said), count, replicas)
        print(f"  all made, and said to be starting, after {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        await _each(await api.list("apps/v1", "Deployment", NAMESPACE), lambda found: _play_node(api, found))
        await _until(lambda: _count(api, "kubeirq.dev/v1", "Function", _is_ready), count, replicas)
        print(f"  all said to be ready {time.monotonic() - began:.1f} s after the first node said so")
        await _at_rest(server, replicas, rest)
    async with _replicas(server, folder, "functions") as replicas:
        before = len(_requests(server, replicas, writes=True))
        began = time.monotonic()
        await asyncio.sleep(min(rest, 30))
        writes = [event for event in _requests(server, replicas, writes=True)[before:] if not _is_lease(event)]
        print(f"  started again: {len(writes)} writes in {time.monotonic() - began:.0f} s, but for the Lease\n")


async def _triggers(server: APIServer, api: Api, folder: Path, count: int, rest: float) -> None:
    print(f"{count} CronTriggers, {len(REPLICAS)} replicas of their controller")
    async with (
        nats_server() as store,
        _replicas(server, folder, "trigger", "cron", KUBEIRQ_STORE_NATS_SERVERS=store.url) as replicas,
    ):
        began = time.monotonic()
        await _each((_trigger(number) for number in range(count)), api.create)
        print(f"  written by a client after {time.monotonic() - began:.1f} s")
        await _until(lambda: _count(api, "kubeirq.dev/v1", "CronTrigger", _is_ready), count, replicas)
        print(f"  all ready after {time.monotonic() - began:.1f} s")
        await _at_rest(server, replicas, rest)
        killed = next(found for found in replicas if found.login == "trigger-cron-one")
        killed.started.kill()
        began = time.monotonic()
        await _until(lambda: _slots_of(api, "trigger-cron-two"), 6, replicas[1:])
        print(f"  one killed: the other has all slots after {time.monotonic() - began:.1f} s\n")


async def _at_rest(server: APIServer, replicas: Sequence[Running], seconds: float) -> None:
    """Prints the requests and the cost of the replicas while no resource changes."""
    while True:  # waits until the last changes have settled
        before = len(_requests(server, replicas, writes=True))
        await asyncio.sleep(5)
        if all(map(_is_lease, _requests(server, replicas, writes=True)[before:])):
            break
    cpu = [cpu_seconds(found.process) for found in replicas]
    before = len(_requests(server, replicas))
    began = time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    asked = Counter(
        f"{event['verb']} {event['objectRef']['resource']}" for event in _requests(server, replicas)[before:]
    )
    print(f"  at rest for {took:.0f} s: {asked.total() / took:.2f} requests a second")
    for what, number in asked.most_common():
        print(f"    {what}: {number / took:.2f} a second")
    for found, used in zip(replicas, cpu, strict=True):
        size = memory(found.process)
        share = (cpu_seconds(found.process) - used) / took
        print(f"    {found.login}: {size.resident_mb:.0f} MB RSS, {size.own_mb:.0f} MB PSS, {share:.1%} of a core")


def _requests(server: APIServer, replicas: Sequence[Running], *, writes: bool = False) -> list[dict[str, Any]]:
    logins = {found.login for found in replicas}
    return [
        event
        for event in server.audit()
        if event["user"]["username"] in logins and "objectRef" in event and (not writes or event["verb"] in WRITES)
    ]


def _is_lease(event: dict[str, Any]) -> bool:
    return bool(event["objectRef"]["resource"] == "leases")


@asynccontextmanager
async def _replicas(server: APIServer, folder: Path, *command: str, **environment: str) -> AsyncIterator[list[Running]]:
    """Runs both replicas, and kills them at the end."""
    running = []
    try:
        for name in REPLICAS:
            login = "-".join((*command, name))
            log = folder / f"{login}.log"
            given = {
                **os.environ,
                "KUBECONFIG": str(await server.kubeconfig_of(login, "system:masters")),
                "KUBEIRQ_NAMESPACE": SYSTEM,
                "KUBEIRQ_REPLICA": login,
                "KUBEIRQ_PORT": str(free_port()),
                "KUBEIRQ_RUNTIME_IMAGE": "runtimes:1",
                "KUBEIRQ_REACH_ALLOW": "127.0.0.0/8",  # the address that the triggers would call is on this machine
                **environment,
            }
            with log.open("ab") as out:
                started = await asyncio.create_subprocess_exec(
                    *MORTAL, sys.executable, "-m", "controllers", *command, stdout=out, stderr=out, cwd=ROOT, env=given
                )
            running.append(Running(login, log, started, psutil.Process(started.pid)))
        yield running
    finally:
        for found in running:
            with suppress(ProcessLookupError):
                found.started.kill()
            await found.started.wait()


@asynccontextmanager
async def _connected(server: APIServer) -> AsyncIterator[Api]:
    configuration = Configuration()
    await config.load_kube_config(str(server.kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        yield Api(client)


async def _each(objects: Iterable[Object], act: Callable[[Object], Awaitable[Any]]) -> None:
    """Acts on the objects, up to AT_ONCE at the same time."""
    waiting = iter(objects)

    async def work() -> None:
        for found in waiting:
            await act(found)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


async def _until(count: Callable[[], Awaitable[int]], wanted: int, replicas: Sequence[Running]) -> None:
    found = 0
    try:
        async with asyncio.timeout(MOST_SECONDS):
            while (found := await count()) < wanted:  # noqa: ASYNC110  waits for another process
                await asyncio.sleep(0.5)
    except TimeoutError:
        logs = "\n".join(replica.log.read_text()[-2_000:] for replica in replicas)
        raise SystemExit(f"{found} of {wanted} after {MOST_SECONDS:.0f} s\n{logs}") from None


async def _count(api: Api, api_version: str, kind: str, holds: Callable[[Object], bool]) -> int:
    return sum(map(holds, await api.list(api_version, kind, NAMESPACE)))


async def _slots_of(api: Api, holder: str) -> int:
    leases = await api.list("coordination.k8s.io/v1", "Lease", SYSTEM, {"kubeirq.dev/slots": "kubeirq-cron"})
    return sum(found["spec"].get("holderIdentity") == holder for found in leases)


def _ready(found: Object) -> Object:
    conditions = found.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


def _is_said(found: Object) -> bool:
    return bool(_ready(found))


def _is_ready(found: Object) -> bool:
    return bool(_ready(found).get("status") == "True")


def _function(number: int) -> Object:
    code = f"def handler(event, context):\n    return {number}\n"
    return _resource("Function", f"f{number:04}", {"source": {"inline": code}})


def _trigger(number: int) -> Object:
    spec = {"schedule": f"{number % 60} {number % 24} 29 2 *", "url": "http://127.0.0.1:9/"}
    return _resource("CronTrigger", f"t{number:04}", spec)


def _resource(kind: str, name: str, spec: Object) -> Object:
    head = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "kubeirq.dev/v1", "kind": kind, "metadata": head, "spec": spec}


async def _play_node(api: Api, deployment: Object) -> None:
    metadata = deployment["metadata"]
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    status = {"status": {"observedGeneration": metadata["generation"], **counts}}
    path = f"/apis/apps/v1/namespaces/{metadata['namespace']}/deployments/{metadata['name']}/status"
    await api.request("PATCH", path, body=status, content_type="application/merge-patch+json")


if __name__ == "__main__":
    sys.exit(main())
