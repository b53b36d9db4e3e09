"""Everything on the node is killed while events flow: deliveries continue without help, and no event is lost."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from servers import kafka, nats
from servers.cluster import Cluster, Namespace, function, keeping
from servers.fabric import manifest
from servers.ledger import Books, Verdict, judge
from servers.recorded_calls import FUNCTION, IDS, account, count, entries, ids

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]

EVENTS = 4_000
KEYS = 200
STEP = 350  # events between two kills
CONCURRENCY = 16
FAST = {"backoffSeconds": 0.05, "backoffMaxSeconds": 0.5}
SETTLED_SECONDS = 1.0  # before a kill: events settled then may not be acknowledged at the source yet
# Calls take a moment, so that kills come while events flow. Some fail, so that there are retries
WORK = {"FAIL_SHARE": "0.02", "WORKS_SECONDS": "0.003"}


@dataclass
class Flow:
    """Events that a function with two replicas writes to a ledger while processes are killed."""

    place: Namespace
    ledger: Path
    sent: Mapping[str, Sequence[int]]
    name: str = "ledger"  # of the function
    controllers_killed_at: list[float] = field(default_factory=list)
    functions_killed: int = 0

    async def progress(self, events: int = STEP, seconds: float = 60) -> None:
        """Returns when the ledger has so many more events, or all."""
        goal = min(count(self.ledger) + events, EVENTS)
        await self.place.until_it_holds(lambda: count(self.ledger) >= goal, f"{goal} deliveries", seconds)

    async def kill_controllers(self, name: str) -> None:
        for pod in await self.place.cluster.controllers(name):
            await self.progress()
            self.controllers_killed_at.append(time.time())
            await self.place.cluster.kill_containers(pod)

    async def kill_function(self) -> None:
        for pod in await self.place.pods(self.name):
            await self.progress()
            self.functions_killed += 1
            await self.place.cluster.kill_containers(pod)

    async def restart_api_server(self) -> None:
        await self.progress()
        await self.place.cluster.restart_api_server()

    async def until_all_are_delivered(self) -> Verdict:
        """Fails if an event is missing, or if a kill repeated more events than were in progress at that moment."""
        await self.place.until_it_holds(lambda: not account(self.ledger, self.sent).missing, "end", 120)
        unacknowledged = sum(
            kill - SETTLED_SECONDS < entry.at <= kill
            for entry in entries(self.ledger)
            for kill in self.controllers_killed_at
        )
        kills = len(self.controllers_killed_at) + self.functions_killed
        found = account(self.ledger, self.sent, repeatable=unacknowledged + kills * CONCURRENCY)
        print(f"\n{found}; {kills} kills")
        assert (found.missing, found.unsent) == ((), ()), found.breaches
        assert len(found.duplicates) <= found.repeatable, found.breaches
        return found


def ledger_function(folder: Path, name: str = "ledger") -> dict[str, Any]:
    return function(
        name, FUNCTION, handler=f"{name.replace('-', '_')}.handler", scale={"min": 2}, **keeping(folder, **WORK)
    )


async def test_no_kafka_record_is_lost_or_out_of_order(place: Namespace, cluster: Cluster, tmp_path: Path):
    topic = f"{place.name}-orders"
    await kafka.create_topic(cluster.kafka, topic)
    sent = await kafka.publish(cluster.kafka, topic, range(EVENTS), KEYS)
    flow = Flow(place, tmp_path / "ledger", sent)
    await place.apply(
        ledger_function(tmp_path),
        manifest("KafkaTrigger", "ledger", function="ledger", topics=[topic], concurrency=CONCURRENCY, delivery=FAST),
    )
    await flow.progress(1, 90)
    for _ in range(2):
        await flow.kill_controllers("kafka")
        await flow.kill_function()
    await flow.restart_api_server()
    found = await flow.until_all_are_delivered()
    assert not found.out_of_order, found.breaches


async def test_no_jetstream_message_is_lost(place: Namespace, cluster: Cluster, tmp_path: Path):
    """Two triggers run beside each other: one in no order, which is the default, and one in order for each key."""
    sent, flows = {}, {}
    for ordering in ("none", "key"):
        stream, folder = f"{place.name}-{ordering}", tmp_path / ordering
        folder.mkdir()
        sent[ordering] = await nats.publish(cluster.nats, stream, EVENTS, KEYS)
        flows[ordering] = Flow(place, folder / "ledger", sent[ordering], name=f"of-{ordering}")
        spec = {"subject": f"{stream}.>", "ordering": ordering, "ackWaitSeconds": 5, "concurrency": CONCURRENCY}
        await place.apply(
            ledger_function(folder, f"of-{ordering}"),
            manifest("NATSTrigger", ordering, function=f"of-{ordering}", delivery=FAST, **spec),
        )
    slower, faster = flows["key"], flows["none"]
    for flow in flows.values():
        await flow.progress(1, 90)
    for _ in range(2):
        await slower.kill_controllers("nats")
        for flow in flows.values():
            await flow.kill_function()
    faster.controllers_killed_at = slower.controllers_killed_at
    await slower.restart_api_server()
    for ordering, flow in flows.items():
        found = await flow.until_all_are_delivered()
        assert ordering == "none" or not found.out_of_order, found.breaches


async def test_every_tick_has_one_id_and_none_is_missed(place: Namespace, cluster: Cluster, tmp_path: Path):
    ledger, kills = tmp_path / "ledger", 0
    await place.apply(
        function("tick", IDS, **keeping(tmp_path)),
        manifest("CronTrigger", "seconds", function="tick", schedule="* * * * * *", catchUp="all"),
    )
    await place.until_ready("CronTrigger", "seconds")
    for _ in range(2):
        for pod in await cluster.controllers("cron"):
            seen = count(ledger)
            await place.until_it_holds(lambda seen=seen: count(ledger) > seen + 2, "ticks", 40)
            await cluster.kill_containers(pod)
            kills += 1
    seen = count(ledger)
    await place.until_it_holds(lambda: count(ledger) > seen + 2, "ticks", 40)
    ticks = sorted(datetime.fromisoformat(found.rpartition("/")[2]).astimezone(UTC) for found in ids(ledger))
    seconds = int((ticks[-1] - ticks[0]).total_seconds()) + 1
    wanted = dict.fromkeys(ticks[0] + timedelta(seconds=n) for n in range(seconds))  # one a second
    verdict = judge(Books(wanted, ticks, repeatable=kills * 2))
    print(f"\n{verdict}; {kills} kills")
    assert verdict.holds, verdict.breaches


async def test_no_accepted_request_is_lost(place: Namespace, cluster: Cluster, tmp_path: Path):
    ledger, path = tmp_path / "ledger", f"/{place.name}"
    await place.apply(
        function("keep", IDS, **keeping(tmp_path)),
        manifest("HTTPTrigger", "keep", function="keep", path=path, answer="accepted", delivery=FAST),
    )
    await place.until_ready("HTTPTrigger", "keep")
    accepted: list[str] = []
    stopping = asyncio.Event()

    async def caller() -> None:
        while not stopping.is_set():
            # each on its own connection; a request whose connection breaks was not accepted, and may be sent again
            try:
                async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
                    async with session.post(f"{await cluster.gateway()}{path}", json={}) as answer:
                        if answer.status == 202:
                            accepted.extend((await answer.json())["ids"])
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(caller()) for _ in range(2)]
        try:
            for pod in [
                *await cluster.controllers("http"),
                *await cluster.controllers("store"),
                *await place.pods("keep"),
            ]:
                goal = len(accepted) + 100
                await place.until_it_holds(lambda goal=goal: len(accepted) > goal, "accepted requests", 60)
                await cluster.kill_containers(pod)
            goal = len(accepted) + 100
            await place.until_it_holds(lambda: len(accepted) > goal, "accepted requests", 60)
        finally:
            stopping.set()
    assert all(task.done() for task in callers)

    def verdict() -> Verdict:
        """A request whose connection broke may have been accepted, with an id that its caller did not get."""
        delivered = ids(ledger)
        unknown = set(delivered) - set(accepted)
        return judge(Books(dict.fromkeys([*accepted, *unknown]), delivered, in_doubt=unknown))

    await place.until_it_holds(lambda: not verdict().missing, "delivery of all that was accepted", 90)
    print(f"\n{verdict()}; accepted {len(accepted)}")
