"""Records what a version keeps: its state folder after a crash, with events that are held, parked and dead.

Usage: CHECKOUT/.venv/bin/python tests/recorded/record.py CHECKOUT ARCHIVE
`version_0_1_0.tar.gz` is of commit b752791, recorded with the interpreter of its own environment. The test that reads
it needs no other version. `facts.json` in the archive has what the version itself said of its state.
"""

import asyncio
import json
import signal
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import aiohttp
import nats
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

APP = Path(__file__).parent / "app"
BINARY = b"refuse \x00\xff\xfe"
# Key and data. "fail" waits for its next attempt and the next of its key behind it, "refuse" is dead or parked
EVENTS: Sequence[tuple[str, bytes]] = (
    ("a", b'{"n": 1}'),
    ("b", b'{"n": 2, "do": "refuse"}'),
    ("b", BINARY),
    ("c", b'{"n": 4, "do": "fail"}'),
    ("c", b'{"n": 5}'),
    ("d", b'{"n": 6}'),
    ("e", '{"n": 7, "do": "refuse", "text": "é"}'.encode()),
    ("f", b'{"n": 8}'),
)
TOPICS = ("company-letters", "company-parks")  # on an Apache Kafka
HEADERS = {"x-sent": "caf\u00e9"}


async def main(checkout: Path, archive: Path) -> None:
    sys.path[:0] = [str(checkout), str(checkout / "tests")]
    servers = import_module("servers.kafka")
    async with servers.apache_kafka() as apache:
        for topic in TOPICS:
            await servers.create_topic(apache.bootstrap, topic, 1)
        await record(checkout, archive, apache.bootstrap)


async def record(checkout: Path, archive: Path, kafka: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        app, state = folder / "app", folder / "state"
        app.mkdir()
        for file in APP.iterdir():
            text = file.read_text().replace("<FOLDER>", str(folder)).replace("<BROKER>", kafka)
            (app / file.name).write_text(text)
        command = [sys.executable, "-m", "kubeirq", "serve", str(app), "--state", str(state)]
        command += ["--http-port", "0", "--metrics-port", "0"]
        serve = await asyncio.create_subprocess_exec(*command, cwd=checkout)
        try:
            status = await until(lambda: ready(state), 60)
            await send(state, status, kafka)
            await until(lambda: settled(state, folder), 60)
            await asyncio.sleep(2)  # commits and acknowledgements of settled events are out
            facts = await facts_of(state, kafka)
            facts["store"] = await fill_store(ports(state)["nats"])
        finally:
            kill(serve.pid)
            await serve.wait()
        facts["calls"] = [json.loads(line) for line in (folder / "ledger").read_text().splitlines()]
        (state / "facts.json").write_text(json.dumps(facts, indent=1))
        for path in (state / "admin.sock", state / "lock"):
            path.unlink(missing_ok=True)
        with tarfile.open(archive, "w:gz", compresslevel=9) as tar:
            tar.add(state, "state", filter=anonymous)
    print(archive, archive.stat().st_size, "bytes")


def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without logs and the function's code, of which the folder has copies, and without the name of the user."""
    if info.name in ("state/functions", "state/logs"):
        return None
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def kill(pid: int) -> None:
    """A crash of the machine: no process ends in good order."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        process.send_signal(signal.SIGSTOP)
    for process in family:
        process.kill()


async def until(asked: Callable[[], Any], seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := await asked()):
            await asyncio.sleep(0.2)
    return found


def ports(state: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((state / "ports.json").read_bytes())
    return found


async def ask(state: Path, path: str) -> Any:
    connector = aiohttp.UnixConnector(path=str(state / "admin.sock"))
    async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://admin{path}") as answer:
        return await answer.json()


async def ready(state: Path) -> Any:
    try:
        status = await ask(state, "/v1/status")
    except (OSError, aiohttp.ClientError):
        return None
    all_ready = all(
        any(condition["type"] == "Ready" and condition["status"] for condition in trigger["conditions"])
        for trigger in status["triggers"]
    )
    return status if all_ready and len(status["triggers"]) == 8 else None


async def send(state: Path, status: Any, kafka: str) -> None:
    for bootstrap, topics in (
        (f"127.0.0.1:{ports(state)['kafka']}", ("kafka-letters", "kafka-parks")),
        (kafka, TOPICS),
    ):
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            for topic in topics:
                for key, data in EVENTS:
                    headers = [("x-sent", b"caf\xe9")]
                    await producer.send_and_wait(topic, data, key=key.encode(), partition=0, headers=headers)
    client = await nats.connect(f"nats://127.0.0.1:{ports(state)['nats']}")
    for prefix in ("nats-letters", "nats-parks"):
        for key, data in EVENTS:
            await client.jetstream().publish(f"{prefix}.{key}", data, headers={"X-Sent": "yes"})
    await client.close()
    async with aiohttp.ClientSession() as session:
        for path in ("http-letters", "http-parks"):
            for key, data in EVENTS:
                headers = {**HEADERS, "x-key": key, "content-type": "application/x-any"}
                async with session.put(
                    f"{status['addresses']['http']}/{path}/{key}?n=1", data=data, headers=headers
                ) as answer:
                    assert answer.status == 202, await answer.text()


async def settled(state: Path, folder: Path) -> bool:
    status = await ask(state, "/v1/status")
    for trigger in status["triggers"]:
        parks = trigger["name"].endswith("-parks")
        delivered, letters = trigger["counters"]["delivered"], trigger["deadLetters"]
        # Of a parked key nothing goes on: the second refused event of b waits behind the first
        if (delivered, letters) != ((3, 0) if parks else (3, 3)):
            return False
    return True


async def facts_of(state: Path, kafka: str) -> dict[str, Any]:
    """The dead letters as the version itself shows them, and the contents of Kafka."""
    facts: dict[str, Any] = {"letters": {}, "lanes": {}}
    for trigger in (await ask(state, "/v1/status"))["triggers"]:
        place = f"/v1/triggers/default/{trigger['kind']}/{trigger['name']}"
        letters = (await ask(state, f"{place}/dead-letters"))["deadLetters"]
        facts["letters"][trigger["name"]] = [
            await ask(state, f"{place}/dead-letters/show?identity={letter['identity']}") for letter in letters
        ]
        facts["lanes"][trigger["name"]] = await ask(state, f"{place}/lanes")
    facts["kafka"] = await kafka_of(kafka)
    return facts


async def kafka_of(bootstrap: str) -> dict[str, Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        topics = [topic for topic in await admin.list_topics() if not topic.startswith("__")]
        groups = {}
        for name in TOPICS:
            group = f"kubeirq.default.{name}.rec"
            groups[group] = [
                [tp.topic, tp.partition, place.offset, place.metadata]
                for tp, place in (await admin.list_consumer_group_offsets(group)).items()
            ]
    finally:
        await admin.close()
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    records: dict[str, list[Any]] = {}
    async with consumer:
        for topic in topics:
            tp = TopicPartition(topic, 0)
            consumer.assign([tp])
            end = (await consumer.end_offsets([tp]))[tp]
            await consumer.seek_to_beginning(tp)
            found = records.setdefault(topic, [])
            while await consumer.position(tp) < end:
                for record in (await consumer.getmany(tp, timeout_ms=500)).get(tp, []):
                    headers = [[name, (value or b"").hex()] for name, value in record.headers]
                    found.append([hexed(record.key), hexed(record.value), headers])
    return {"records": records, "groups": groups}


def hexed(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


async def fill_store(port: int) -> list[str]:
    """The store of a cluster: accepted events and dead letters in JetStream, written by that version's own code."""
    events, dead = import_module("trigger_sources.events"), import_module("trigger_sources.dead_letters")
    delivery, http = import_module("trigger_sources.delivery"), import_module("trigger_sources.http.events")
    store = import_module("trigger_sources.nats.store")
    request = delivery.HttpRequest("PUT", "/orders/7?n=1", (("content-type", "application/x-any"),), {"id": "7"})
    ids = []
    async with store.JetStreamStore.open([f"nats://127.0.0.1:{port}"], replica="old", ack_wait_seconds=2.0) as opened:
        inbox, letters = opened.inbox("uid-of-cluster"), opened.dead_letters("uid-of-cluster", "rec")
        await inbox.prepare()
        await letters.prepare()
        for number, (key, data) in enumerate(EVENTS):
            extensions = {"partitionkey": key}
            event = events.Event(id=f"id-{number}", source="/http", type="t", data=data, extensions=extensions)
            ids.append(event.id)
            await inbox.append_all([http.record_from(event, request)])
            if b"refuse" in data:
                letter = dead.DeadLetter(
                    "uid-of-cluster", "default", "web", "rec", f"p@{number}", event, "PermanentAnswer", "status 400",
                    1.5, key=key.encode(), attempts=(delivery.Attempt(1.0, 0.1, 400, "", b"no \xff"),), request=request,
                )  # fmt: skip
                await letters.write(letter)
        for kept in await inbox.take(3, 5.0):  # one settles, two are held when the server is killed
            if b'"id-0"' in kept.record:
                await kept.settle(delivery.Outcome("delivered"))
        await asyncio.sleep(0.5)
    return ids


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
