"""Two fabrics in one group of a real Kafka, of which one stops, stands still or is killed by a record."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest
from servers.fabric import Fabric, fabric, manifest
from servers.function import Function, function
from servers.kafka import SASL_PASSWORD, SASL_USER, Kafka, apache_kafka, create_topic, publish
from servers.recorded_calls import account, count, entries, repeated

TOPIC = "orders"
PARTITIONS = 4
CONCURRENCY = 8
COMMIT_SECONDS = 1.5
UNCOMMITTED = 40  # events that one fabric settles in the time between two commits
# A line is one call that is done; the last number is how many calls of its key ran when it began, itself included.
# A record that kills ends the fabric whose process id is in the file
FUNCTION = """
import collections, os, signal, threading, time

ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
works = float(os.environ["WORKS_SECONDS"])
running = collections.Counter()
counting = threading.Lock()


def handler(event, context):
    data = event["data"]
    key = data["key"]
    if data.get("kills"):
        os.kill(int(open(os.environ["FABRIC"]).read()), signal.SIGKILL)
        return "it goes on living", 500
    with counting:
        running[key] += 1
        beside = running[key]
    time.sleep(works)
    line = "%s %s %d %.6f %s %d" % (event["event-id"], key, data["n"], time.time(), context["attempt"], beside)
    os.write(ledger, line.encode() + b"\\n")
    with counting:
        running[key] -= 1
"""


async def until(happened: Callable[[], Any], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.05)


def trigger(bootstrap: str, url: str, **more: Any) -> dict[str, Any]:
    spec = {"url": url, "brokers": [bootstrap], "topics": [TOPIC], "group": "g", "concurrency": CONCURRENCY}
    return manifest("KafkaTrigger", "ledger", **spec, **more)


@asynccontextmanager
async def worker(tmp_path: Path, name: str = "f", works: float = 0.01) -> AsyncIterator[Function]:
    """A function; all of them write to one ledger."""
    async with function(
        FUNCTION, LEDGER=str(tmp_path / "ledger"), FABRIC=str(tmp_path / f"{name}.pid"), WORKS_SECONDS=str(works),
        FUNC_CONCURRENCY="64",
    ) as found:  # fmt: skip
        yield found


async def received(it: Fabric) -> int:
    return int((await it.trigger("ledger"))["counters"]["received"])


async def all_receive(*fabrics: Fabric) -> None:
    async with asyncio.timeout(120):
        while not all([await received(it) for it in fabrics]):
            await asyncio.sleep(0.1)


@pytest.mark.timeout(400)
async def test_a_fabric_that_stood_still_past_its_session_calls_nothing_that_another_one_has_delivered(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    async with apache_kafka() as kafka, worker(tmp_path) as target:
        await create_topic(kafka.bootstrap, TOPIC, PARTITIONS)
        manifests = [trigger(kafka.bootstrap, target.url)]
        async with (
            fabric(tmp_path / "m", tmp_path / "one", manifests=manifests) as one,
            fabric(tmp_path / "m", tmp_path / "two") as two,
        ):
            sent = await publish(kafka.bootstrap, TOPIC, range(8_000))
            await all_receive(one, two)
            assert one.process is not None
            one.process.send_signal(signal.SIGSTOP)
            stopped_at = time.time()
            await until(lambda: not account(ledger, sent).missing, 120)  # the other one has all of them
            before = count(ledger)
            one.process.send_signal(signal.SIGCONT)
            # It is a member again once it receives events, and they are delivered
            more = await publish(kafka.bootstrap, TOPIC, range(8_000, 9_000))
            for key, numbers in more.items():
                sent[key] += numbers
            number, taken = 9_000, await received(one)
            async with asyncio.timeout(120):
                while await received(one) == taken:
                    for key, numbers in (await publish(kafka.bootstrap, TOPIC, range(number, number + 50))).items():
                        sent[key] += numbers
                    number += 50
            await until(lambda: not account(ledger, sent).missing, 120)
            after = entries(ledger)[before:]
        found = account(ledger, sent)
        print(f"\n{found}")
        assert [entry.number for entry in after if entry.number < 8_000] == []
        assert (found.missing, found.out_of_order) == ((), ())
        # A commit is at most a second late: only calls of this second, and those that ran, come again
        assert all(entry.at > stopped_at - COMMIT_SECONDS for entry in repeated(ledger))


@pytest.mark.timeout(400)
async def test_a_source_that_restarts_again_and_again_runs_no_key_beside_the_other_member(tmp_path: Path) -> None:
    ledger, records = tmp_path / "ledger", 6_000
    async with apache_kafka(sasl="PLAIN", acls=True) as kafka, worker(tmp_path, works=0.02) as target:
        await create_topic(kafka.bootstrap, TOPIC, PARTITIONS)
        async with (
            fabric(tmp_path / "m1", tmp_path / "one", manifests=with_login(kafka, target)) as one,
            fabric(tmp_path / "m2", tmp_path / "two", manifests=[trigger(kafka.bootstrap, target.url)]) as two,
        ):
            sent: dict[str, list[int]] = {}
            publishing = asyncio.create_task(keep_publishing(kafka.bootstrap, sent, records))
            await all_receive(one, two)
            async with forbidden(kafka, f"User:{SASL_USER}"):
                await until(lambda: one.log.read_text().count('"source restarts"') >= 3, 120)
            await publishing
            await until(lambda: not account(ledger, sent).missing, 120)
        found = account(ledger, sent)
        print(f"\n{found}, {Counter(entry.at_once for entry in entries(ledger))}")
        assert {entry.at_once for entry in entries(ledger)} == {1}  # no key ran twice at once
        assert (found.missing, found.out_of_order) == ((), ())
        # Each time that it joins it delivers until its first commit is refused
        assert len(found.duplicates) <= 4 * (CONCURRENCY + UNCOMMITTED), repeated(ledger)


@pytest.mark.timeout(400)
async def test_a_member_whose_commits_are_refused_delivers_nothing_until_they_are_accepted(tmp_path: Path) -> None:
    """Its room is full, so it fetches nothing, and no fetch tells it that it may not read."""
    ledger = tmp_path / "ledger"
    async with apache_kafka(sasl="PLAIN", acls=True) as kafka, worker(tmp_path, works=0.02) as target:
        await create_topic(kafka.bootstrap, TOPIC, PARTITIONS)
        sent = await publish(kafka.bootstrap, TOPIC, range(4_000), keys=100)
        async with fabric(tmp_path / "m", tmp_path / "s", manifests=with_login(kafka, target)) as it:
            await until(lambda: count(ledger) >= 200, 120)
            async with forbidden(kafka, f"User:{SASL_USER}"):
                await until_condition(it, "False", "commits are refused, so nothing is delivered")
                before, refusals = count(ledger), refusals_in(it)
                await until(lambda: refusals_in(it) >= refusals + 2, 30)  # in this time it would deliver hundreds
                assert count(ledger) <= before + CONCURRENCY
            await until_condition(it, "True", "")
            await until(lambda: not account(ledger, sent).missing, 120)
        found = account(ledger, sent)
        print(f"\n{found}")
        assert (found.missing, found.out_of_order, found.duplicates) == ((), (), ())


def refusals_in(it: Fabric) -> int:
    return it.log.read_text().count('"commit not accepted"')


def with_login(kafka: Kafka, target: Function) -> list[dict[str, Any]]:
    sasl = {"mechanism": "PLAIN", "username": SASL_USER, "password": {"name": "kafka", "key": "password"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kafka"}}
    return [
        trigger(kafka.sasl_bootstrap, target.url, security={"sasl": sasl}),
        {**secret, "stringData": {"password": SASL_PASSWORD}},
    ]


async def keep_publishing(bootstrap: str, sent: dict[str, list[int]], records: int) -> None:
    """Fewer than two fabrics deliver, so that the room of neither is full."""
    for first in range(0, records, 40):
        for key, numbers in (await publish(bootstrap, TOPIC, range(first, first + 40), keys=100)).items():
            sent.setdefault(key, []).extend(numbers)
        await asyncio.sleep(0.1)


async def until_condition(it: Fabric, status: str, message: str) -> None:
    async with asyncio.timeout(120):
        while True:
            conditions = (await it.trigger("ledger"))["conditions"]
            connected = next(found for found in conditions if found["type"] == "Connected")
            if connected["status"] == status and message in connected["message"]:
                return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def forbidden(kafka: Kafka, user: str) -> AsyncIterator[None]:
    """While it lasts, the user may see the topic and not read it."""
    topic, literal, describe, read, deny, allow = 2, 3, 8, 3, 2, 3
    rules = [(topic, TOPIC, literal, user, "*", *rule) for rule in ((describe, allow), (read, deny))]
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        for rule in rules:
            await admin._send_request_to_node(1, CreateAclsRequest(*rule))
        yield
        for rule in reversed(rules):
            await admin._send_request_to_node(1, DeleteAclsRequest(*rule))
    finally:
        await admin.close()


@pytest.mark.timeout(400)
async def test_a_record_that_kills_every_fabric_that_calls_it_becomes_a_dead_letter_and_the_others_are_delivered(
    tmp_path: Path,
) -> None:
    """It kills one fabric, and then the other one, which took the partition over: they count together."""
    ledger = tmp_path / "ledger"
    async with apache_kafka() as kafka, worker(tmp_path, "one") as first, worker(tmp_path, "two") as second:
        await create_topic(kafka.bootstrap, TOPIC, PARTITIONS)
        sent = await publish(kafka.bootstrap, TOPIC, range(200), keys=20)
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
            await producer.send_and_wait(TOPIC, b'{"key": "killer", "n": -1, "kills": true}', key=b"k7")
        for key, numbers in (await publish(kafka.bootstrap, TOPIC, range(200, 400), keys=20)).items():
            sent[key] += numbers
        async with (
            fabric(tmp_path / "m1", tmp_path / "one", manifests=[trigger(kafka.bootstrap, first.url)]) as one,
            fabric(tmp_path / "m2", tmp_path / "two", manifests=[trigger(kafka.bootstrap, second.url)]) as two,
        ):
            kills = 0
            async with asyncio.timeout(240):
                while not (found := [letter for it in (one, two) for letter in await letters_of(it)]):
                    for it in (one, two):
                        if it.process is not None and it.process.returncode is not None:
                            kills += 1
                            print(f"kill {kills}: {it.state.name} after {time.monotonic():.0f}")
                            await it.start()
                        (tmp_path / f"{it.state.name}.pid").write_text(str(it.pid))
                    await asyncio.sleep(0.2)
            await until(lambda: not account(ledger, sent).missing, 120)
            print(account(ledger, sent), kills)
        letters = {letter["identity"]: letter["reason"] for letter in found}  # both read the same topic
        assert list(letters.values()) == ["CrashLoop"]
        assert kills >= 6


async def letters_of(it: Fabric) -> list[dict[str, Any]]:
    if it.process is None or it.process.returncode is not None:
        return []
    try:
        answer = await it.ask_json("GET", "/v1/triggers/default/KafkaTrigger/ledger/dead-letters")
    except (OSError, AssertionError, aiohttp.ClientError):
        return []  # it is being killed, or starts
    found: list[dict[str, Any]] = answer["deadLetters"]
    return found
