"""Triggers of every kind on a real node: the example, replicas that share work, changes while events flow."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import nats as nats_client
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from servers import kafka
from servers.cluster import Cluster, Namespace, function, keeping
from servers.fabric import manifest
from servers.ledger import clean
from servers.recorded_calls import FUNCTION, account, count, entries

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "orders"
ORDERS = 40
EVENTS = 1_000
KEYS = 50


async def test_the_orders_of_the_example_flow_through_all_four_triggers(place: Namespace, cluster: Cluster):
    """HTTP → Kafka → NATS → function, with cron ticks beside it: every event that comes in comes out, by its id."""
    topic, subject = f"{place.name}-orders", f"{place.name}-invoices"
    await kafka.create_topic(cluster.kafka, topic)
    await place.apply(*example(topic, subject, f"/{place.name}"))
    for kind, name in (
        ("HTTPTrigger", "shop"),
        ("CronTrigger", "regulars"),
        ("KafkaTrigger", "orders"),
        ("NATSTrigger", "invoices"),
    ):
        await place.until_ready(kind, name)
    for name in ("validate", "place", "invoice", "notify"):
        await place.until_ready("Function", name)
    gateway = await cluster.gateway()
    async with messages(cluster.nats, subject) as invoices:
        accepted: list[str] = []
        async with aiohttp.ClientSession() as session:
            for number in range(ORDERS):
                order = {"item": "tea", "quantity": number + 1, "customer": f"customer-{number}"}
                async with session.post(f"{gateway}/{place.name}", json=order) as answer:
                    assert answer.status == 202, await answer.text()
                    accepted += (await answer.json())["ids"]
        wanted = {f"{event_id}/validate/invoice" for event_id in accepted}
        await place.until_it_holds(lambda: wanted <= invoices.keys(), f"{ORDERS} invoices", 60)
        ticks = {event_id for event_id in invoices if event_id not in wanted}
        assert len(wanted) == ORDERS
        await place.until_it_holds(lambda: len(invoices.keys() - wanted) >= 2, "orders of the clock", 30)
        assert all(event_id.endswith("/place/invoice") for event_id in ticks), ticks
    assert json.loads(invoices[f"{accepted[4]}/validate/invoice"]) == {
        "customer": "customer-4",
        "text": "5 x tea",
        "total": 20,
    }
    for number in range(ORDERS):
        text = f"dear customer-{number}: {number + 1} x tea, that is {4 * (number + 1)} euros"
        await until_logged(place, "notify", text)


async def test_replicas_share_the_partitions_of_a_topic(place: Namespace, cluster: Cluster, tmp_path: Path):
    ledger, topic = tmp_path / "ledger", f"{place.name}-orders"
    await kafka.create_topic(cluster.kafka, topic)
    await place.apply(function("ledger", FUNCTION, **keeping(tmp_path)), kafka_trigger(topic))
    await place.until_ready("KafkaTrigger", "ledger")
    await until_shared(place, topic)
    sent = await kafka.publish(cluster.kafka, topic, range(EVENTS), KEYS)
    await place.until_it_holds(lambda: count(ledger) >= EVENTS, f"{EVENTS} deliveries", 60)
    shares = [await delivered_by(pod, place.name) for pod in await cluster.controllers("kafka")]
    assert len(shares) == 2
    assert sum(shares) == EVENTS
    assert min(shares) > EVENTS / 10, shares
    assert str(account(ledger, sent)) == clean(EVENTS)


async def test_changing_a_trigger_under_load_loses_no_event_and_deletes_its_old_consumer(
    place: Namespace, cluster: Cluster, tmp_path: Path
):
    ledger, one, two = tmp_path / "ledger", f"{place.name}-one", f"{place.name}-two"
    bootstrap = cluster.kafka
    for topic in (one, two):
        await kafka.create_topic(bootstrap, topic)
    await place.apply(
        function("ledger", FUNCTION, concurrency=16, **keeping(tmp_path, WORKS_SECONDS="0.02")),
        kafka_trigger(one, concurrency=1),
    )
    await kafka.publish(bootstrap, one, range(400), KEYS)
    await place.until_it_holds(lambda: count(ledger) >= 20, "deliveries", 60)
    await place.apply(kafka_trigger(one, concurrency=16))
    await place.until_it_holds(lambda: count(ledger) >= 400, "400 deliveries", 60)
    found = entries(ledger)
    assert max(entry.at_once for entry in found[:20]) <= 2, "one for each replica of the controller"
    assert max(entry.at_once for entry in found[20:]) > 2, "more run at once than before"

    await place.apply(kafka_trigger(one, filter="data.n % 2 == 0"))
    await place.until_ready("KafkaTrigger", "ledger")
    await kafka.publish(bootstrap, one, range(400, 600), KEYS)
    await place.until_it_holds(lambda: count(ledger) >= 500, "100 even ones", 30)

    await place.apply(kafka_trigger(two))
    await until_shared(place, two)
    await kafka.publish(bootstrap, one, range(600, 700), KEYS)
    await kafka.publish(bootstrap, two, range(700, 800), KEYS)
    await place.until_it_holds(lambda: numbers(ledger) >= set(range(700, 800)), "records of the new topic", 30)
    assert not numbers(ledger) & set(range(600, 700)), "the old topic has no consumer"

    await place.apply(kafka_trigger(one, two))
    everything = {*range(400), *range(400, 600, 2), *range(600, 800)}
    await place.until_it_holds(lambda: numbers(ledger) >= everything, "records of the old topic", 30)
    assert numbers(ledger) == everything
    assert count(ledger) == len(everything), "each once"


async def test_events_wait_while_a_function_is_deleted_and_created_again(
    place: Namespace, cluster: Cluster, tmp_path: Path
):
    ledger, topic = tmp_path / "ledger", f"{place.name}-orders"
    await kafka.create_topic(cluster.kafka, topic)
    target = function("ledger", FUNCTION, **keeping(tmp_path, WORKS_SECONDS="0.005"))
    await place.apply(target, kafka_trigger(topic))
    sent = await kafka.publish(cluster.kafka, topic, range(EVENTS), KEYS)
    await place.until_it_holds(lambda: count(ledger) > 50, "deliveries", 60)
    await place.kubectl("delete", "function", "ledger", "--timeout=20s")
    await place.until_condition("KafkaTrigger", "ledger", "Delivering", "FunctionDown", 40)
    await place.until("Deployment", "ledger", lambda found: found is None, 40)
    assert count(ledger) < EVENTS
    await place.apply(target)
    await place.until_it_holds(lambda: count(ledger) >= EVENTS, "the rest", 60)
    await place.until_ready("KafkaTrigger", "ledger")
    found = account(ledger, sent, repeatable=16)  # calls in progress at the deletion
    assert found.holds, found.breaches


# --- helpers


def kafka_trigger(*topics: str, **spec: Any) -> dict[str, Any]:
    return manifest("KafkaTrigger", "ledger", **{"function": "ledger", "topics": topics, "concurrency": 16, **spec})


def numbers(ledger: Path) -> set[int]:
    return {entry.number for entry in entries(ledger)}


def example(topic: str, subject: str, path: str) -> list[dict[str, Any]]:
    """The example's resources for a cluster: with inline code, and names that are unique on the brokers."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all((EXAMPLE / "orders.yaml").read_text()))
    for document in documents:
        spec = document["spec"]
        if document["kind"] == "Function":
            spec["source"] = {"inline": (EXAMPLE / spec["source"]["path"]).read_text()}
            spec["runtime"] = "python3.11"  # the Python of the tests' image
    text = json.dumps(documents)
    for old, new in (('"/orders"', path), ('["orders"]', [topic]), ('{"topic": "orders"}', {"topic": topic})):
        assert old in text
        text = text.replace(old, json.dumps(new))
    text = text.replace('"subject": "invoices"', f'"subject": "{subject}"').replace('"INVOICES"', f'"{subject}"')
    changed: list[dict[str, Any]] = json.loads(text)
    return changed


@asynccontextmanager
async def messages(url: str, subject: str) -> AsyncIterator[dict[str, bytes]]:
    """Collects the ids of events that are published to a subject from now on."""
    found: dict[str, bytes] = {}
    connection = await nats_client.connect(url)

    async def note(message: Any) -> None:
        found[message.headers["ce-id"]] = message.data

    await connection.subscribe(subject, cb=note)
    try:
        yield found
    finally:
        await connection.close()


async def until_logged(place: Namespace, name: str, text: str, seconds: float = 30) -> None:
    log = ""
    try:
        async with asyncio.timeout(seconds):
            while text not in (log := await place.kubectl("logs", f"deployment/{name}", "--tail=-1")):
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise AssertionError(f"{name} never logged {text!r}; the end of its log:\n{log[-2000:]}") from None


async def delivered_by(controller: dict[str, Any], namespace: str) -> int:
    """The number of events that this replica has delivered for triggers of that namespace."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{controller['status']['podIP']}:9090/metrics") as answer:
            text = await answer.text()
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "kubeirq_events_delivered_total" and sample.labels["namespace"] == namespace
    )


async def until_shared(place: Namespace, topic: str) -> None:
    """Returns when the trigger's group has two members with partitions of this topic, and of no other."""
    group = f"kubeirq.{place.name}.ledger.ledger"
    found: Any = None
    try:
        async with asyncio.timeout(60):
            while (found := await kafka.assigned(place.cluster.kafka, group)) != [{topic}, {topic}]:
                await asyncio.sleep(0.3)
    except TimeoutError:
        raise AssertionError(f"the group's members have {found}\n{await place.told()}") from None
