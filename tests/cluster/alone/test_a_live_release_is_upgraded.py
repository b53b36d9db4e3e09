"""helm upgrade and helm rollback of a live release: no request is refused, and no event is lost."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats as nats_client
import pytest
from servers import images, kafka
from servers.cluster import Cluster, Namespace, function, keeping, named
from servers.fabric import manifest
from servers.helm import CHART, RELEASE, helm
from servers.ledger import Books, judge
from servers.load import Load, load
from servers.recorded_calls import FUNCTION, IDS, account, count, ids, repeated

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600, func_only=True)]

PAUSE_SECONDS = 0.2  # of each of 16 clients
PUBLISH_SECONDS = 0.1
KEYS = 20
CONCURRENCY = 4
CLIENTS = 8  # of the trigger that accepts
# A member of a group that gets no processor time for long is expelled, and its calls come again
REPEATABLE = 4 * CONCURRENCY  # replicas that are replaced
WAIT = (f"--namespace={RELEASE}", "--wait", "--timeout=300s")
ECHO = "def handler(event, context):\n    return 'echo'\n"


async def test_an_upgrade_and_its_rollback_refuse_no_request_and_lose_no_event(
    place: Namespace, cluster: Cluster, tmp_path: Path
):
    """Every pod of the release and of the functions is replaced twice, while requests and events flow."""
    tags = {}
    for image in (images.CONTROLLERS, images.RUNTIMES):
        tags[image] = f"{image.rpartition(':')[0]}:next"
        await cluster.node.name_also(image, tags[image])
    values = {"image": named(tags[images.CONTROLLERS]), "runtimes": {"image": named(tags[images.RUNTIMES])}}
    async with flowing(place, cluster, tmp_path) as flow:
        await flow.goes_on()
        await helm(
            "upgrade", RELEASE, str(CHART), *WAIT, "--reset-then-reuse-values",
            kubeconfig=cluster.node.kubeconfig, values=values,
        )  # fmt: skip
        await flow.until_functions_run(tags[images.RUNTIMES])
        await flow.goes_on()
        await helm("rollback", RELEASE, *WAIT, kubeconfig=cluster.node.kubeconfig)
        await flow.until_functions_run(images.RUNTIMES)
        await flow.goes_on()
    await flow.until_it_adds_up()


# --- helpers


class Flow:
    """Requests on new and kept connections to a trigger that answers and to one that accepts, and events of brokers."""

    functions = ("echo", "accepted", "of-kafka", "of-nats")

    def __init__(self, place: Namespace, cluster: Cluster, folder: Path) -> None:
        self.place = place
        self.cluster = cluster
        self.folders = {name: folder / name for name in self.functions}
        self.loads: dict[str, Load] = {}
        self.sent: dict[str, dict[str, list[int]]] = {"of-kafka": {}, "of-nats": {}}
        self.stopping = asyncio.Event()

    @property
    def name(self) -> str:
        """Of the topic and the stream."""
        return f"{self.place.name}-orders"

    async def goes_on(self) -> None:
        """Returns once each load has more answers and each ledger more events."""
        answered = {name: found.answers.total() + 20 for name, found in self.loads.items()}
        delivered = {name: count(self.folders[name] / "ledger") + 20 for name in self.sent}
        await self.place.until_it_holds(
            lambda: (
                all(self.loads[name].answers.total() >= goal for name, goal in answered.items())
                and all(count(self.folders[name] / "ledger") >= goal for name, goal in delivered.items())
            ),
            f"progress: answers {answered}, deliveries {delivered}", 60,
        )  # fmt: skip

    async def until_functions_run(self, runtime: str) -> None:
        """Returns once all pods of the functions have this image of the runtime."""

        def rolled_out(found: Any) -> bool:
            spec, status = found["spec"], found["status"]
            return (
                any(container["image"] == runtime for container in spec["template"]["spec"]["initContainers"])
                and status.get("observedGeneration") == found["metadata"]["generation"]
                and status.get("updatedReplicas") == status.get("replicas") == status.get("availableReplicas")
            )

        for name in self.functions:
            await self.place.until("Deployment", name, rolled_out, 180, why=f"not rolled out with {runtime}")
            await self.place.until_ready("Function", name)

    async def until_it_adds_up(self) -> None:
        """Returns once every event has arrived. Fails if a request was refused or an event came too often."""
        for name, found in self.loads.items():
            print(f"\n{name}: {found.answers.total()} answers, {len(found.failures)} failures", end="")
        assert [failure for found in self.loads.values() for failure in found.failures] == []
        for name, sent in self.sent.items():
            ledger = self.folders[name] / "ledger"
            await self.place.until_it_holds(
                lambda at=ledger, it=sent: not account(at, it).missing, f"end of {name}", 90
            )
            verdict = account(ledger, sent, repeatable=REPEATABLE)
            print(f"\n{name}: {verdict}", end="")
            in_order = verdict.out_of_order == () or name == "of-nats"  # which has no order: its default
            assert in_order and len(verdict.duplicates) <= REPEATABLE, (verdict.breaches, repeated(ledger))
        bodies = [body for name in ("accepted anew", "accepted kept") for body in self.loads[name].answers]
        accepted = [event_id for body in bodies for event_id in json.loads(body)["ids"]]
        ledger = self.folders["accepted"] / "ledger"
        await self.place.until_it_holds(lambda: set(accepted) <= set(ids(ledger)), "accepted requests", 90)
        # a write that the end of the store's pod interrupted is repeated
        found = judge(Books(dict.fromkeys(accepted), ids(ledger), repeatable=2 * CLIENTS))
        print(f"\naccepted: {found}")
        assert found.holds, found.breaches

    async def _publish_to_kafka(self) -> None:
        number = 0
        async with kafka.AIOKafkaProducer(bootstrap_servers=self.cluster.kafka) as producer:
            while not self.stopping.is_set():
                key = f"k{number % KEYS}"
                await producer.send_and_wait(self.name, _payload(key, number), key=key.encode())
                self.sent["of-kafka"].setdefault(key, []).append(number)
                number += 1
                await asyncio.sleep(PUBLISH_SECONDS)

    async def _publish_to_nats(self) -> None:
        number = 0
        connection = await nats_client.connect(self.cluster.nats)
        jetstream = connection.jetstream()
        while not self.stopping.is_set():
            key = f"k{number % KEYS}"
            await jetstream.publish(f"{self.name}.{key}", _payload(key, number))
            self.sent["of-nats"].setdefault(key, []).append(number)
            number += 1
            await asyncio.sleep(PUBLISH_SECONDS)
        await connection.close()


@asynccontextmanager
async def flowing(place: Namespace, cluster: Cluster, folder: Path) -> AsyncIterator[Flow]:
    """Load on everything of a namespace, from the moment at which all of it is ready."""
    flow = Flow(place, cluster, folder)
    await kafka.create_topic(cluster.kafka, flow.name)
    for created in flow.folders.values():
        created.mkdir()
    await place.apply(*_objects(flow))
    for kind, name in (("HTTPTrigger", "echo"), ("HTTPTrigger", "accepted"), ("KafkaTrigger", "ledger")):
        await place.until_ready(kind, name)
    await place.until_ready("NATSTrigger", "ledger")
    host = urlsplit(await cluster.gateway()).hostname
    assert host is not None
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        for name in ("echo", "accepted"):
            for keep in (False, True):
                flow.loads[f"{name} {'kept' if keep else 'anew'}"] = await stack.enter_async_context(
                    load(host, 80, f"/{place.name}/{name}", keep=keep, pause_seconds=PAUSE_SECONDS)
                )
        group.create_task(flow._publish_to_kafka())
        group.create_task(flow._publish_to_nats())
        try:
            yield flow
        finally:
            flow.stopping.set()


def _objects(flow: Flow) -> list[Mapping[str, Any]]:
    place, folders = flow.place.name, flow.folders
    return [
        function("echo", ECHO),
        function("accepted", IDS, **keeping(folders["accepted"])),
        function("of-kafka", FUNCTION, handler="of_kafka.handler", **keeping(folders["of-kafka"])),
        function("of-nats", FUNCTION, handler="of_nats.handler", **keeping(folders["of-nats"])),
        manifest("HTTPTrigger", "echo", function="echo", path=f"/{place}/echo"),
        manifest("HTTPTrigger", "accepted", function="accepted", path=f"/{place}/accepted", answer="accepted"),
        manifest("KafkaTrigger", "ledger", function="of-kafka", topics=[flow.name], concurrency=CONCURRENCY),
        manifest(
            "NATSTrigger", "ledger", function="of-nats",
            subject=f"{flow.name}.>", stream=flow.name, createStream=True, concurrency=CONCURRENCY,
        ),
    ]  # fmt: skip


def _payload(key: str, number: int) -> bytes:
    return json.dumps({"key": key, "n": number}).encode()
