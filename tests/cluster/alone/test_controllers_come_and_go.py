"""The controllers are replaced while events flow, and taken away while objects are deleted."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from servers import kafka, nats
from servers.cluster import Cluster, Namespace, function, keeping
from servers.fabric import manifest, repeatable_in
from servers.helm import RELEASE
from servers.kubernetes import KubectlError
from servers.one_of_each import delete_all, one_of_each, until_nothing_is_left
from servers.recorded_calls import FUNCTION, account, count, repeated

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]

EVENTS = 2_000
KEYS = 50
# A member's log says this once it finds out that the group went on without it
LEFT_OUT = re.compile(r"member_id was not recognized|generation id is not\s+current|commit out of date")


class Members:
    """The replicas of the Kafka controller while they come and go: how many events their group may repeat at most.

    A replica that leaves in good order repeats none. The group leaves one out whose heartbeats a busy machine kept for
    longer than the session of six seconds. The next owner then repeats the calls that ran and the events that were
    settled and not committed. The metrics say how many these are; lines that the ledger got since may be more of them.
    """

    def __init__(self, place: Namespace, ledger: Path) -> None:
        self.repeatable = 0
        self._place = place
        self._ledger = ledger
        self._said: dict[str, tuple[int, int]] = {}  # by pod: what its metrics said last, and the ledger's lines then
        self._most: dict[str, int] = {}  # by pod, since it was left out the last time
        self._left_out: dict[str, int] = {}  # by pod: how often its log says so

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
            await self._look()  # at the end of the logs
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _watch(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(0.2)

    async def _look(self) -> None:
        cluster = self._place.cluster
        for pod in await cluster.api.list("v1", "Pod", RELEASE, {"app.kubernetes.io/component": "kafka"}):
            with suppress(KubectlError, OSError, aiohttp.ClientError):  # it is about to start, or gone
                await self._look_at(pod["metadata"]["name"], pod["status"].get("podIP"))

    async def _look_at(self, name: str, address: str | None) -> None:
        times = len(LEFT_OUT.findall(await self._place.cluster.kubectl("logs", name, "--tail=-1")))
        lines = count(self._ledger)
        if name in self._said:
            said, lines_then = self._said[name]
            self._most[name] = max(self._most.get(name, 0), said + lines - lines_then)
        if times > self._left_out.get(name, 0):
            self._left_out[name] = times
            self.repeatable += self._most.pop(name, 0)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            async with session.get(f"http://{address}:9090/metrics") as answer:
                said = repeatable_in(await answer.text(), namespace=self._place.name)
        if said is not None:
            self._said[name] = (said, lines)


async def test_an_upgrade_of_the_controllers_repeats_nothing(place: Namespace, cluster: Cluster, tmp_path: Path):
    for_kafka, for_nats = tmp_path / "kafka", tmp_path / "nats"
    topic = stream = f"{place.name}-orders"
    for folder in (for_kafka, for_nats):
        folder.mkdir()
    await kafka.create_topic(cluster.kafka, topic)
    work = {"WORKS_SECONDS": "0.005"}
    records = await kafka.publish(cluster.kafka, topic, range(EVENTS), KEYS)
    letters = await nats.publish(cluster.nats, stream, EVENTS, KEYS)
    await place.apply(
        function("of-kafka", FUNCTION, handler="of_kafka.handler", **keeping(for_kafka, **work)),
        function("of-nats", FUNCTION, handler="of_nats.handler", **keeping(for_nats, **work)),
        manifest("KafkaTrigger", "ledger", function="of-kafka", topics=[topic], concurrency=16),
        manifest("NATSTrigger", "ledger", function="of-nats", subject=f"{stream}.>", concurrency=16),
    )
    ledgers = (for_kafka / "ledger", for_nats / "ledger")
    await place.until_it_holds(lambda: all(map(count, ledgers)), "deliveries", 60)
    names = [f"deployment/kubeirq-{name}" for name in ("kafka", "nats")]
    members = Members(place, ledgers[0])
    async with members.watched():
        await cluster.kubectl("rollout", "restart", *names)
        for name in names:
            await cluster.kubectl("rollout", "status", name, "--timeout=90s")
        before = [count(ledger) for ledger in ledgers]
        flows = list(zip(ledgers, (records, letters), strict=True))
        await place.until_it_holds(lambda: not any(account(*flow).missing for flow in flows), "end", 90)
    of_kafka = account(ledgers[0], records, repeatable=members.repeatable)
    print(f"\n{before} of {EVENTS} were delivered when the new controllers were ready")
    print(f"Kafka: {of_kafka} of at most {of_kafka.repeatable}")
    # Zero, unless a busy machine kept a replica for so long that the group left it out: no setting promises more then
    assert of_kafka.holds, (of_kafka.breaches, repeated(ledgers[0]))
    of_nats = account(ledgers[1], letters)
    assert (of_nats.missing, of_nats.duplicates) == ((), ()), of_nats  # in no order: that is its default


async def test_deletion_does_not_wait_for_a_controller(place: Namespace, cluster: Cluster):
    await one_of_each(place, cluster)
    deployments = (await cluster.kubectl("get", "deployments", "-o", "name")).split()
    await cluster.kubectl("scale", "--replicas=0", *deployments)
    try:
        for name in ("functions", "http", "cron", "kafka", "nats"):
            async with asyncio.timeout(60):
                while await cluster.controllers(name):
                    await asyncio.sleep(0.3)
        await delete_all(place)
        await until_nothing_is_left(place)
        await place.kubectl("delete", "namespace", place.name, "--timeout=60s")
    finally:
        await cluster.kubectl("scale", "--replicas=2", *deployments)
        for name in deployments:
            await cluster.kubectl("rollout", "status", name, "--timeout=90s")
