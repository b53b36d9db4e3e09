"""Measures the controllers with many resources: `python -m benchmarks.controllers [--functions N] …`, or `make scale`.

It uses a real API server without nodes: the benchmark marks every Deployment as ready. Kafka and NATS are real servers
on this machine. `--against FOLDER` measures another checkout, which is installed, first.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from benchmarks.measure import ROOT
from benchmarks.replicas import SYSTEM, Place, Replica, Requests, replicas
from controllers.cluster.api import Api, Object, path_of
from kubeirq.on_machine.brokers import kafka_broker

sys.path.insert(0, str(ROOT / "tests"))

from servers.kubernetes import APIServer, api_server
from servers.nats import nats_server

NAMESPACE, FOREIGN = "default", "foreign"
AT_ONCE = 16
STEP_SECONDS = 3_000.0  # the time limit of each step
LOOK_SECONDS = 1.0
SETTLED_SECONDS, SETTLED_LOOKS = 10.0, 12
VISIBLE_SECONDS = 60.0  # the time limit of one edit
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
KINDS = {"http": "HTTPTrigger", "cron": "CronTrigger", "nats": "NATSTrigger", "kafka": "KafkaTrigger"}


@dataclass(frozen=True)
class Size:
    functions: int
    function_bytes: int
    triggers: int
    brokered: int  # of the triggers: NATS and Kafka triggers, each
    slices: int
    edits: int
    rest: float


@dataclass
class Results:
    """The figures of one checkout, in the order of the printed rows."""

    rows: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, figure: str) -> None:
        self.rows[name] = figure
        print(f"  {name}: {figure}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.controllers", description=__doc__)
    parser.add_argument("--functions", type=int, default=300)
    parser.add_argument("--function-bytes", type=int, default=100_000, help="the size of each Function's code")
    parser.add_argument(
        "--triggers", type=int, default=1_000, help="of all kinds; half of those without a broker: HTTP"
    )
    parser.add_argument("--brokered", type=int, default=20, help="NATS triggers, and the same number of Kafka triggers")
    parser.add_argument("--slices", type=int, default=3_000, help="EndpointSlices that are none of kubeirq's")
    parser.add_argument("--edits", type=int, default=100, help="edits of Functions, and the same number of triggers")
    parser.add_argument("--rest", type=float, default=60, help="seconds at rest")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, measured before this one")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="where the replicas' logs are kept")
    given = parser.parse_args()
    size = Size(
        given.functions, given.function_bytes, given.triggers, given.brokered, given.slices, given.edits, given.rest
    )
    print(f"{os.cpu_count()} cores, {os.getloadavg()[0]:.1f} of them busy before; all parts share them\n{size}\n")
    checkouts = [ROOT] if given.against is None else [given.against.resolve(), ROOT]
    results = {}
    for checkout in checkouts:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if given.logs is None else given.logs / checkout.name
            folder.mkdir(parents=True, exist_ok=True)
            print(f"{'before' if checkout != ROOT else 'after'}", flush=True)
            results[checkout] = asyncio.run(_measure(checkout, folder, size))
    if len(checkouts) == 2:
        _print_table(*results.values())
    return 0


def _print_table(before: Results, after: Results) -> None:
    print("\n| measured | before | after |\n| --- | --- | --- |")
    for name in dict.fromkeys((*before.rows, *after.rows)):
        print(f"| {name} | {before.rows.get(name, '')} | {after.rows.get(name, '')} |")


async def _measure(checkout: Path, folder: Path, size: Size) -> Results:
    results = Results()
    async with api_server() as server, _connected(server) as api:
        place = Place(server, checkout, folder)
        await server.kubectl("apply", "--server-side", "-f", "-", input=place.definitions())
        await server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        for namespace in (SYSTEM, FOREIGN):
            await server.kubectl("create", "namespace", namespace)
        await _each((_slice(number) for number in range(size.slices)), api.create)
        await _each((_function(number, size.function_bytes) for number in range(size.functions)), api.create)
        await _functions(place, api, size, results)
        await _triggers(place, api, size, results)
    return results


# --- Functions


async def _functions(place: Place, api: Api, size: Size, results: Results) -> None:
    async with _node(api):
        began = time.monotonic()
        async with replicas(place, "functions"):
            await _until_ready_column(api, "Function", size.functions, lambda cell: cell == "True", began)
            results.add(f"{size.functions} Functions written and ready", f"{time.monotonic() - began:.0f} s")
        async with replicas(place, "functions") as running:
            await _at_rest(place, "functions", running, size.rest, results)
            edits = await _latencies(range(size.edits), lambda number: _edit_function(api, number % size.functions))
            results.add("edit of a Function until its Deployment is written", _percentiles(edits))
            results.add("functions: peak memory", _mib(found.peak_mib for found in running))


async def _edit_function(api: Api, number: int) -> float:
    """Seconds until the Deployment has the new variable."""
    value = f"{time.time_ns()}"
    path = f"/apis/kubeirq.dev/v1/namespaces/{NAMESPACE}/functions/{_function_name(number)}"
    patch = {"spec": {"env": [{"name": "EDITED", "value": value}]}}
    deployment_path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{_function_name(number)}"

    async def is_written() -> bool:
        found = await api.request("GET", deployment_path)
        variables = found["spec"]["template"]["spec"]["containers"][0]["env"]
        return any(item.get("value") == value for item in variables)

    began = time.monotonic()
    await api.request("PATCH", path, body=patch, content_type="application/merge-patch+json")
    return await _seconds_until(is_written, began)


# --- triggers


async def _triggers(place: Place, api: Api, size: Size, results: Results) -> None:
    counts = dict.fromkeys(("nats", "kafka"), size.brokered)
    counts["cron"] = (size.triggers - 2 * size.brokered) // 2
    counts["http"] = size.triggers - sum(counts.values())
    (place.folder / "kafka" / "logs").mkdir(parents=True)
    async with nats_server() as store, kafka_broker(place.folder / "kafka") as kafka:
        servers = {
            "KUBEIRQ_STORE_NATS_SERVERS": store.url,
            "KUBEIRQ_NATS_SERVERS": store.url,
            "KUBEIRQ_KAFKA_BROKERS": kafka.address,
        }
        for name, kind in KINDS.items():
            await _each((_trigger(name, number, size.functions) for number in range(counts[name])), api.create)
            began = time.monotonic()
            async with replicas(place, "trigger", name, **servers):
                await _until_ready_column(api, kind, counts[name], bool, began)
                results.add(f"{counts[name]} {kind}s have a status", f"{time.monotonic() - began:.0f} s")
        async with AsyncExitStack() as stack:
            running: dict[str, list[Replica]] = {}
            for name in KINDS:
                running[name] = await stack.enter_async_context(replicas(place, "trigger", name, **servers))
                await _at_rest(place, f"{name} triggers", running[name], size.rest, results)
            async with aiohttp.ClientSession() as session:
                edits = await _latencies(
                    range(size.edits), lambda number: _edit_trigger(api, session, number % counts["http"], running)
                )
            results.add("edit of an HTTP trigger until every replica serves it", _percentiles(edits))
            for name, found in running.items():
                results.add(f"{name} triggers: peak memory", _mib(replica.peak_mib for replica in found))


async def _edit_trigger(
    api: Api, session: aiohttp.ClientSession, number: int, running: dict[str, list[Replica]]
) -> float:
    """Seconds until both gateways know the new path."""
    new_path = f"/edited/{number}/{time.time_ns()}"
    path = f"/apis/kubeirq.dev/v1/namespaces/{NAMESPACE}/httptriggers/{_trigger_name('http', number)}"
    ports = [replica.gateway_port for replica in running["http"]]

    async def is_served() -> bool:
        for port in ports:
            async with session.post(f"http://127.0.0.1:{port}{new_path}", data=b"{}") as answer:
                if answer.status == 404:
                    return False
        return True

    if await is_served():
        raise SystemExit(f"{new_path} is served before a trigger has it")
    began = time.monotonic()
    await api.request("PATCH", path, body={"spec": {"path": new_path}}, content_type="application/merge-patch+json")
    return await _seconds_until(is_served, began)


# --- measuring


async def _at_rest(place: Place, name: str, running: Sequence[Replica], seconds: float, results: Results) -> None:
    """Adds start, memory and the requests of the replicas while no resource changes."""
    results.add(f"{name}: start of a replica", " and ".join(f"{found.start_seconds:.1f} s" for found in running))
    logins, requests = [found.login for found in running], Requests(place.server)
    for _ in range(SETTLED_LOOKS):  # until the last changes have settled; otherwise the figures show what goes on
        requests.skip()
        await asyncio.sleep(SETTLED_SECONDS)
        if all(asked.endswith(" leases") for asked in requests.new(logins)):
            break
    cpu = [found.cpu_seconds for found in running]
    requests.skip()
    began = time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    asked = requests.new(logins)
    results.add(f"{name}: requests at rest, each replica", _rates(asked, took * len(running)))
    used = [(found.cpu_seconds - before) / took for found, before in zip(running, cpu, strict=True)]
    results.add(f"{name}: CPU at rest, each replica", f"{statistics.mean(used):.1%} of a core")
    results.add(f"{name}: memory at rest", _mib(found.resting_mib for found in running))


async def _latencies(numbers: Iterable[int], edit: Callable[[int], Awaitable[float]]) -> list[float]:
    return [await edit(number) for number in numbers]


async def _seconds_until(holds: Callable[[], Awaitable[bool]], began: float) -> float:
    while not await holds():
        if time.monotonic() - began > VISIBLE_SECONDS:
            break
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def _rates(asked: Counter[str], seconds: float) -> str:
    if not asked:
        return "none"
    return ", ".join(f"{name} {count / seconds:.2f} a second" for name, count in asked.most_common())


def _percentiles(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    last = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return f"p50 {statistics.median(ordered):.2f} s, p99 {last:.2f} s"


def _mib(figures: Iterable[float]) -> str:
    return f"{max(figures):.0f} MiB"


# --- the cluster


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


async def _until_ready_column(
    api: Api, kind: str, count: int, holds: Callable[[str | None], bool], began: float
) -> None:
    """Returns once that holds of the Ready condition of so many objects."""
    while sum(holds(cell) for cell in await _ready_column(api, kind)) < count:
        if time.monotonic() - began > STEP_SECONDS:
            raise SystemExit(f"{kind}: not done after {STEP_SECONDS:.0f} s")
        await asyncio.sleep(LOOK_SECONDS)


async def _ready_column(api: Api, kind: str) -> list[str | None]:
    """The Ready column of `kubectl get`: a response without the code of thousands of Functions."""
    query = [("resourceVersion", "0"), ("includeObject", "None")]
    table = await api.request("GET", path_of("kubeirq.dev/v1", kind, NAMESPACE), query=query, accept=TABLE)
    column = next(number for number, found in enumerate(table["columnDefinitions"]) if found["name"] == "Ready")
    return [row["cells"][column] for row in table["rows"]]


def _function_name(number: int) -> str:
    return f"f{number:05}"


def _trigger_name(name: str, number: int) -> str:
    return f"{name}-{number:05}"


def _function(number: int, size: int) -> Object:
    line = f"# {number} is a comment of this Function, so that it has the size of a real one\n"
    code = "def handler(event, context): ...\n" + "".join(islice(_forever(line), max(1, size // len(line))))
    return _resource("Function", _function_name(number), {"source": {"inline": code}})


def _forever(line: str) -> Iterable[str]:
    while True:
        yield line


def _trigger(name: str, number: int, functions: int) -> Object:
    spec: Object = {"function": _function_name(number % max(1, functions))}
    match name:
        case "http":
            spec["path"] = f"/{_trigger_name(name, number)}"
        case "cron":
            spec["schedule"] = f"{number % 60} {number % 24} 29 2 *"
        case "nats":
            spec["subject"] = f"scale.{number}"
        case _:
            spec["topics"] = [f"scale-{number}"]
    return _resource(KINDS[name], _trigger_name(name, number), spec)


def _slice(number: int) -> Object:
    """An EndpointSlice of another team's Service, with a hundred addresses."""
    addresses = [
        {"addresses": [f"10.{number // 250}.{number % 250}.{last}"], "conditions": {"ready": True}}
        for last in range(1, 101)
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"other-{number}",
            "namespace": FOREIGN,
            "labels": {"kubernetes.io/service-name": f"other-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": addresses,
    }


def _resource(kind: str, name: str, spec: Object) -> Object:
    head = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "kubeirq.dev/v1", "kind": kind, "metadata": head, "spec": spec}


@asynccontextmanager
async def _node(api: Api) -> AsyncIterator[None]:
    """Calls every Deployment ready, as long as the context is open."""

    async def play() -> None:
        found, version = await api.snapshot("apps/v1", "Deployment", NAMESPACE, {})
        await _each(found, call_ready)
        async with asyncio.TaskGroup() as group:
            async for kind, deployment in api.changes("apps/v1", "Deployment", NAMESPACE, {}, version):
                if kind != "DELETED":
                    group.create_task(call_ready(deployment))

    async def call_ready(deployment: Object) -> None:
        generation, path = deployment["metadata"]["generation"], path_of("apps/v1", "Deployment", NAMESPACE)
        if deployment.get("status", {}).get("observedGeneration") != generation:
            status = {"status": {"observedGeneration": generation, **counts}}
            path = f"{path}/{deployment['metadata']['name']}/status"
            await api.request("PATCH", path, body=status, content_type="application/merge-patch+json")

    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    playing = asyncio.create_task(play())
    try:
        yield
    finally:
        playing.cancel()
        with suppress(asyncio.CancelledError):
            await playing


if __name__ == "__main__":
    sys.exit(main())
