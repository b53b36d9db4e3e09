"""Measures the controllers with many resources: `python -m benchmarks.controllers [--functions N] …`, or `make scale`.

It uses a real API server without nodes: the benchmark marks every Deployment as ready, and writes an EndpointSlice for
each Function, so that every trigger can be ready. Kafka and NATS are real servers on this machine. `--against FOLDER`
measures another checkout, which is installed, first.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import aiohttp
import nats
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from benchmarks.many_objects import (
    FOREIGN,
    KINDS,
    MERGE_PATCH,
    NAMESPACE,
    each,
    edited,
    endpoints,
    foreign_slice,
    function,
    function_name,
    node,
    trigger,
    trigger_name,
)
from benchmarks.measure import ROOT
from benchmarks.replicas import SYSTEM, Place, Replica, Request, Requests, replicas
from controllers.cluster.api import Api, path_of
from kubeirq.on_machine.brokers import kafka_broker

sys.path.insert(0, str(ROOT / "tests"))

from servers.kubernetes import APIServer, api_server
from servers.nats import nats_server

LOOK_SECONDS = 1.0
SETTLED_SECONDS, SETTLED_LOOKS = 10.0, 12
VISIBLE_SECONDS = 60.0  # the time limit of one edit
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
FUNCTIONS, TRIGGERS = "functions", "triggers"


@dataclass(frozen=True)
class Size:
    functions: int
    function_bytes: int
    triggers: int
    brokered: int  # of the triggers: NATS and Kafka triggers, each
    slices: int
    edits: int
    rest: float
    step: float  # the time limit of a step


@dataclass
class Results:
    """The figures of one checkout, in the order of the printed rows. `numbers` are the same, for charts."""

    rows: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, figure: str, number: float | None = None) -> None:
        self.rows[name] = figure
        if number is not None:
            self.numbers[name] = number
        print(f"  {name}: {figure}", flush=True)

    def add_percentiles(self, name: str, seconds: Sequence[float]) -> None:
        half, most = percentile(seconds, 0.5), percentile(seconds, 0.99)
        self.rows[name] = f"p50 {half:.2f} s, p99 {most:.2f} s"
        self.numbers |= {f"{name}, p50": half, f"{name}, p99": most}
        print(f"  {name}: {self.rows[name]}", flush=True)

    def add_per_edit(self, name: str, asked: Counter[str], cpu: float, edits: int) -> None:
        """Adds what the replicas did for each edit. These figures depend little on the machine's other work."""
        listed = ", ".join(f"{found} {number / edits:.2f}" for found, number in sorted(asked.items()))
        self.add(f"{name}: requests of all replicas for each", listed or "none", sum(asked.values()) / edits)
        self.add(f"{name}: CPU of all replicas for each", f"{cpu / edits * 1000:.0f} ms", cpu / edits)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.controllers", description=__doc__)
    parser.add_argument("--functions", type=int, default=300)
    parser.add_argument("--function-bytes", type=int, default=100_000, help="the size of each Function's code")
    parser.add_argument(
        "--triggers", type=int, default=1_000, help="of all kinds; half of those without a broker: HTTP"
    )
    parser.add_argument("--brokered", type=int, default=20, help="NATS triggers, and the same number of Kafka triggers")
    parser.add_argument("--slices", type=int, default=3_000, help="EndpointSlices that are none of kubeirq's")
    parser.add_argument("--edits", type=int, default=100, help="edits of Functions, and of triggers of each kind")
    parser.add_argument("--rest", type=float, default=60, help="seconds at rest")
    parser.add_argument("--step", type=float, default=3_000, help="seconds until a step is given up")
    parser.add_argument("--only", choices=[FUNCTIONS, TRIGGERS, *KINDS], help="measures these alone")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, measured before this one")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="where the replicas' logs are kept")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="where the numbers are kept, for benchmarks.charts")
    given = parser.parse_args()
    names = ("functions", "function_bytes", "triggers", "brokered", "slices", "edits", "rest", "step")
    size = Size(**{name: getattr(given, name) for name in names})
    print(f"{os.cpu_count()} cores, {os.getloadavg()[0]:.1f} of them busy before; all parts share them\n{size}\n")
    checkouts = {"after": ROOT} if given.against is None else {"before": given.against.resolve(), "after": ROOT}
    results = {}
    for label, checkout in checkouts.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if given.logs is None else given.logs / label
            folder.mkdir(parents=True, exist_ok=True)
            print(label, flush=True)
            results[label] = asyncio.run(_measure(checkout, folder, size, given.only))
        if given.save is not None:
            _save(given.save, label, size, results[label])
    if len(checkouts) == 2:
        _print_table(results["before"], results["after"])
    return 0


def _save(folder: Path, label: str, size: Size, results: Results) -> None:
    """Adds the numbers to those of earlier runs of the same size."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{label}-{size.functions}-{size.triggers}.json"
    earlier = json.loads(file.read_text())["numbers"] if file.exists() else {}
    kept = {"label": label, "size": asdict(size), "numbers": {**earlier, **results.numbers}}
    file.write_text(json.dumps(kept, indent=1) + "\n")


def _print_table(before: Results, after: Results) -> None:
    print("\n| measured | before | after |\n| --- | --- | --- |")
    for name in dict.fromkeys((*before.rows, *after.rows)):
        print(f"| {name} | {before.rows.get(name, '')} | {after.rows.get(name, '')} |")


async def _measure(checkout: Path, folder: Path, size: Size, only: str | None) -> Results:
    results = Results()
    async with api_server() as server, _connected(server) as api:
        place = Place(server, checkout, folder)
        await server.kubectl("apply", "--server-side", "-f", "-", input=place.definitions())
        await server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        for namespace in (SYSTEM, FOREIGN):
            await server.kubectl("create", "namespace", namespace)
        await each((foreign_slice(number) for number in range(size.slices)), api.create)
        await each((function(number, size.function_bytes) for number in range(size.functions)), api.create)
        if only in (None, FUNCTIONS):
            await _functions(place, api, size, results)
        if only != FUNCTIONS:
            await each((endpoints(number) for number in range(size.functions)), api.create)
            kinds = [only] if only in KINDS else list(KINDS)
            await _triggers(place, api, size, kinds, results)
    return results


# --- Functions


async def _functions(place: Place, api: Api, size: Size, results: Results) -> None:
    async with node(api):
        began = time.monotonic()
        async with replicas(place, "functions"):
            ready = await _until_ready(api, "Function", size, size.functions)
            took = time.monotonic() - began
            results.add(f"{ready} of {size.functions} Functions written and ready", f"{took:.0f} s")
            results.add("functions: written and ready a minute", f"{ready / took * 60:.0f}", ready / took * 60)
        async with replicas(place, "functions") as running:
            await _at_rest(place, "functions", running, size.rest, results)
            name, requests, cpu = "edit of a Function", Requests(place.server), _cpu(running)
            requests.skip()
            edits = [await _edit_function(api, number % size.functions) for number in range(size.edits)]
            await asyncio.sleep(LOOK_SECONDS)  # for the status after the last edit
            results.add_percentiles(f"{name} until its Deployment is written", edits)
            asked, logins = requests.new(), [found.login for found in running]
            _add_parts(results, name, asked, logins)
            own = Counter(found.name for found in asked if found.user in logins)
            results.add_per_edit(name, own, _cpu(running) - cpu, size.edits)
            _add_peak(results, "functions", running)


async def _edit_function(api: Api, number: int) -> float:
    """Seconds until the Deployment has the new variable."""
    value = f"{time.time_ns()}"
    path = f"/apis/kubeirq.dev/v1/namespaces/{NAMESPACE}/functions/{function_name(number)}"
    patch = {"spec": {"env": [{"name": "EDITED", "value": value}]}}
    deployment_path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{function_name(number)}"

    async def is_written() -> bool:
        found = await api.request("GET", deployment_path)
        variables = found["spec"]["template"]["spec"]["containers"][0]["env"]
        return any(item.get("value") == value for item in variables)

    began = time.monotonic()
    await api.request("PATCH", path, body=patch, content_type=MERGE_PATCH)
    return await _seconds_until(is_written, began)


def _add_parts(results: Results, name: str, asked: Sequence[Request], logins: Sequence[str]) -> None:
    """Divides the time of each edit: the API server takes it, its watch and the controller, the API server writes."""
    edits = [found for found in asked if found.name == "patch functions" and found.user not in logins]
    writes = [found for found in asked if found.name == "patch deployments" and found.user in logins]
    parts = [
        (edit.seconds, write.received - edit.answered, write.seconds)
        for edit, write in ((edit, _first_after(edit, writes)) for edit in edits)
        if write is not None
    ]
    whose = ("the API server takes the edit", "its watch and the controller", "the API server takes the write")
    for part, seconds in zip(whose, zip(*parts, strict=True), strict=False):
        results.add_percentiles(f"{name}: of that, {part}", seconds)


def _first_after(edit: Request, writes: Sequence[Request]) -> Request | None:
    return next((found for found in writes if found.object == edit.object and found.received > edit.received), None)


# --- triggers


async def _triggers(place: Place, api: Api, size: Size, kinds: Sequence[str], results: Results) -> None:
    counts = dict.fromkeys(("nats", "kafka"), size.brokered)
    counts["cron"] = (size.triggers - 2 * size.brokered) // 2
    counts["http"] = size.triggers - sum(counts.values())
    (place.folder / "kafka" / "logs").mkdir(parents=True, exist_ok=True)
    async with nats_server() as store, kafka_broker(place.folder / "kafka") as kafka:
        await _make_stream(store.url)
        await _make_topics(kafka.address, counts["kafka"])
        servers = {
            "KUBEIRQ_STORE_NATS_SERVERS": store.url,
            "KUBEIRQ_NATS_SERVERS": store.url,
            "KUBEIRQ_KAFKA_BROKERS": kafka.address,
        }
        for name in kinds:
            kind = KINDS[name]
            await each((trigger(name, number, size.functions) for number in range(counts[name])), api.create)
            began = time.monotonic()
            async with replicas(place, "trigger", name, **servers) as running:
                ready = await _until_ready(api, kind, size, counts[name])
                took, cpu = time.monotonic() - began, _cpu(running)
                results.add(f"{ready} of {counts[name]} {kind}s are ready", f"{took:.0f} s")
                results.add(f"{name} triggers: ready a minute", f"{ready / took * 60:.0f}", ready / took * 60)
                results.add(f"{name} triggers: CPU until all are ready", f"{cpu:.0f} s", cpu)
        async with AsyncExitStack() as stack:
            running_of: dict[str, list[Replica]] = {}
            for name in kinds:
                running_of[name] = await stack.enter_async_context(replicas(place, "trigger", name, **servers))
                await _at_rest(place, f"{name} triggers", running_of[name], size.rest, results)
            for name in kinds:
                await _edit_triggers(place, api, (name, counts[name], size.edits), running_of[name], results)
                _add_peak(results, f"{name} triggers", running_of[name])


async def _edit_triggers(
    place: Place, api: Api, asked: tuple[str, int, int], running: list[Replica], results: Results
) -> None:
    """Edits triggers of a kind, one at a time, until each is served with the new spec, or its status says so."""
    name, among, edits = asked
    what = "edit of an HTTP trigger" if name == "http" else f"edit of a {KINDS[name]}"
    end = "until every replica serves it" if name == "http" else "until it is Ready"
    requests, cpu, logins = Requests(place.server), _cpu(running), [found.login for found in running]
    requests.skip()
    accepted, served = [], []
    async with aiohttp.ClientSession() as session:
        for number in range(edits):
            spec = edited(name, number % among, next(_EDITS))
            path = path_of("kubeirq.dev/v1", KINDS[name], NAMESPACE, trigger_name(name, number % among))
            ports = [replica.gateway_port for replica in running]
            began = time.monotonic()
            found = await api.request("PATCH", path, body={"spec": spec}, content_type=MERGE_PATCH)
            accepted.append(time.monotonic() - began)
            if name == "http":
                holds = partial(_is_served, session, ports, spec["path"])
            else:
                holds = partial(_is_ready, api, path, found["metadata"]["generation"])
            served.append(await _seconds_until(holds, began))
    await asyncio.sleep(LOOK_SECONDS)  # for the status after the last edit
    results.add_percentiles(f"{what} {end}", served)
    results.add_percentiles(f"{what}: of that, the API server takes the edit", accepted)
    rest = [whole - part for whole, part in zip(served, accepted, strict=True)]
    results.add_percentiles(f"{what}: of that, its watch and the controllers", rest)
    own = Counter(found.name for found in requests.new() if found.user in logins)
    results.add_per_edit(what, own, _cpu(running) - cpu, edits)


_EDITS = count(1)


async def _is_served(session: aiohttp.ClientSession, ports: Sequence[int], path: str) -> bool:
    """Whether every gateway knows the path. It answers this request itself, and calls no function."""
    for port in ports:
        async with session.options(f"http://127.0.0.1:{port}{path}") as answer:
            if answer.status == 404:
                return False
    return True


async def _is_ready(api: Api, path: str, generation: int) -> bool:
    conditions = (await api.request("GET", path)).get("status", {}).get("conditions", [])
    ready = next((found for found in conditions if found["type"] == "Ready"), {})
    return ready.get("status") == "True" and ready.get("observedGeneration") == generation


async def _make_stream(url: str) -> None:
    client = await nats.connect(url)
    await client.jetstream().add_stream(name="scale", subjects=["scale.>"])
    await client.close()


async def _make_topics(address: str, topics: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(f"scale-{number}", 1, 1) for number in range(topics)])
    finally:
        await admin.close()


# --- measuring


async def _at_rest(place: Place, name: str, running: Sequence[Replica], seconds: float, results: Results) -> None:
    """Adds start, memory and the requests of the replicas while no resource changes."""
    starts = [found.start_seconds for found in running]
    results.add(f"{name}: start of a replica", " and ".join(f"{each:.1f} s" for each in starts), max(starts))
    results.add(f"{name}: CPU of a replica's start", f"{_cpu(running) / len(running):.1f} s", _cpu(running) / 2)
    logins, requests = [found.login for found in running], Requests(place.server)
    for _ in range(SETTLED_LOOKS):  # until the last changes have settled; otherwise the figures show what goes on
        requests.skip()
        await asyncio.sleep(SETTLED_SECONDS)
        if all(asked.name.endswith(" leases") for asked in requests.new() if asked.user in logins):
            break
    cpu = _cpu(running)
    requests.skip()
    began = time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    asked = Counter(found.name for found in requests.new() if found.user in logins)
    rate = sum(asked.values()) / took / len(running)
    results.add(f"{name}: requests at rest, each replica", _rates(asked, took * len(running)), rate)
    used = (_cpu(running) - cpu) / took / len(running)
    results.add(f"{name}: CPU at rest, each replica", f"{used:.1%} of a core", used)
    resting = max(found.resting_mib for found in running)
    results.add(f"{name}: memory at rest", f"{resting:.0f} MiB", resting)


def _cpu(running: Sequence[Replica]) -> float:
    return sum(found.cpu_seconds for found in running)


def _add_peak(results: Results, name: str, running: Sequence[Replica]) -> None:
    peak = max(found.peak_mib for found in running)
    results.add(f"{name}: peak memory", f"{peak:.0f} MiB", peak)


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


def percentile(figures: Sequence[float], part: float) -> float:
    if part == 0.5:
        return statistics.median(figures)
    return sorted(figures)[min(len(figures) - 1, round(part * len(figures)))]


# --- the cluster


@asynccontextmanager
async def _connected(server: APIServer) -> AsyncIterator[Api]:
    configuration = Configuration()
    await config.load_kube_config(str(server.kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        yield Api(client)


async def _until_ready(api: Api, kind: str, size: Size, wanted: int) -> int:
    """Returns the number of objects that are Ready: so many, or those of the time limit."""
    began = time.monotonic()
    while (ready := (await _ready_column(api, kind)).count("True")) < wanted:
        if time.monotonic() - began > size.step:
            break
        await asyncio.sleep(LOOK_SECONDS)
    return ready


async def _ready_column(api: Api, kind: str) -> list[str | None]:
    """The Ready column of `kubectl get`: a response without the code of thousands of Functions."""
    query = [("resourceVersion", "0"), ("includeObject", "None")]
    table = await api.request("GET", path_of("kubeirq.dev/v1", kind, NAMESPACE), query=query, accept=TABLE)
    column = next(number for number, found in enumerate(table["columnDefinitions"]) if found["name"] == "Ready")
    return [row["cells"][column] for row in table["rows"]]


if __name__ == "__main__":
    sys.exit(main())
