"""The embedded brokers: their data and addresses survive kill -9 of any of their processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nats
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from nats.js.api import StreamConfig
from servers.ports import free_port

from kubeirq.on_machine.broker_supervisor import Broker
from kubeirq.on_machine.brokers import kafka_broker, nats_server
from kubeirq.on_machine.object_store import Objects, Request, answer_to


async def test_kafka_records_and_commits_survive_kill_minus_nine_of_every_process(tmp_path: Path) -> None:
    async with kafka_broker(tmp_path) as broker:
        await create_topic(broker.address, "orders")
        await produce(broker.address, [b"1", b"2", b"3"])
        await commit(broker.address, 2)
        for pid in broker.pids:
            os.kill(pid, signal.SIGKILL)
        await restarted(broker, 1)
        await produce(broker.address, [b"4"])
        assert await consume(broker.address, 4) == [b"1", b"2", b"3", b"4"]
        assert await committed(broker.address) == 2


async def test_records_confirmed_while_the_broker_is_killed_repeatedly_are_all_kept(tmp_path: Path) -> None:
    async with kafka_broker(tmp_path) as broker:
        await create_topic(broker.address, "orders")
        confirmed: list[bytes] = []
        done = asyncio.Event()

        async def keep_producing() -> None:
            while not done.is_set():
                value = b"%d" % len(confirmed)
                try:
                    async with asyncio.timeout(5):
                        await produce(broker.address, [value])
                except Exception:
                    await asyncio.sleep(0.05)
                    continue
                confirmed.append(value)

        producing = asyncio.create_task(keep_producing())
        for round_ in range(1, 4):
            already = len(confirmed)
            await until(lambda already=already: len(confirmed) > already + 20)
            os.kill(broker.pids[round_ % 2], signal.SIGKILL)
            await restarted(broker, round_)
        done.set()
        await producing
        assert set(confirmed) <= set(await consume(broker.address, len(confirmed)))


async def test_a_topic_that_is_deleted_takes_its_records_along_and_can_be_created_again(tmp_path: Path) -> None:
    async with kafka_broker(tmp_path) as broker:
        await create_topic(broker.address, "orders")
        await produce(broker.address, [b"1", b"2"])
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
        await admin.start()
        answer = await admin.delete_topics(["orders"])
        await admin.close()
        assert answer.topic_error_codes == [("orders", 0)]
        await create_topic(broker.address, "orders")
        await produce(broker.address, [b"3"])
        assert await consume(broker.address, 1) == [b"3"]


async def test_both_brokers_come_back_at_the_same_address_with_their_data(tmp_path: Path) -> None:
    async with kafka_broker(tmp_path) as kafka, nats_server(tmp_path) as server:
        addresses = kafka.address, server.address
        await create_topic(kafka.address, "orders")
        await produce(kafka.address, [b"1"])
        await publish(server.address, b"2")
        os.kill(server.pids[0], signal.SIGKILL)
        await restarted(server, 1)
        await publish(server.address, b"3")
    async with kafka_broker(tmp_path) as kafka, nats_server(tmp_path) as server:
        assert (kafka.address, server.address) == addresses
        assert await consume(kafka.address, 1) == [b"1"]
        client = await nats.connect(server.address)
        assert (await client.jetstream().stream_info("invoices")).state.messages == 2
        await client.close()


TAKES_A_PORT = """
import asyncio, pathlib, sys
from kubeirq.on_machine.broker_ports import choose_port

print(asyncio.run(choose_port(pathlib.Path(sys.argv[1]), "kafka", int(sys.argv[2]))), flush=True)
sys.stdin.read()
"""


async def test_fabrics_that_start_at_the_same_moment_take_ports_of_their_own(tmp_path: Path) -> None:
    usual = free_port()
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", TAKES_A_PORT, str(tmp_path / str(number)), str(usual),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for number in range(3)
    ]  # fmt: skip
    try:
        ports = [int(await process.stdout.readline()) for process in processes if process.stdout is not None]
    finally:
        for process in processes:
            process.kill()
            await process.wait()
    assert len(set(ports)) == 3, "though nobody listens on them yet"
    assert usual in ports


async def test_a_port_that_is_taken_is_replaced_by_a_free_one(tmp_path: Path) -> None:
    async with nats_server(tmp_path / "one") as one, nats_server(tmp_path / "two") as two:
        assert one.address != two.address
        ports = json.loads((tmp_path / "two" / "ports.json").read_bytes())
        assert two.address.endswith(f":{ports['nats']}")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
async def test_brokers_end_when_their_parent_process_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE)  # noqa: ASYNC220  starts at once
    assert owner.stdout is not None
    try:
        pids = json.loads(await asyncio.to_thread(owner.stdout.readline))
        assert len(pids) == 3 and all(runs(pid) for pid in pids)
        owner.kill()
        await until(lambda: not any(runs(pid) for pid in pids))
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()


def test_pages_of_objects_are_complete_and_ordered_and_merge_common_prefixes(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path / "objects.sqlite"))
    for number in range(1_500):
        objects.put(f"a/{number:05}", b"")
    objects.put("b/1/x", b"")
    objects.put("b/2", b"")
    first = objects.page("a/", "", "")
    second = objects.page("a/", "", first.last or "")
    assert [entry.key for entry in (*first.entries, *second.entries)] == [f"a/{number:05}" for number in range(1_500)]
    assert second.last is None
    top = objects.page("", "/", "")
    assert (top.entries, top.prefixes, top.last) == ([], ["a/", "b/"], None)
    below = objects.page("b/", "/", "")
    assert ([entry.key for entry in below.entries], below.prefixes) == (["b/2"], ["b/1/"])
    assert [entry.key for entry in objects.page("a/", "", "a/01497").entries] == ["a/01498", "a/01499"]
    objects.close()


def test_several_objects_are_deleted_by_one_request(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path / "objects"))
    for key in ("a&b", "c/d", "kept"):
        objects.put(key, b"1")
    body = b'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>a&amp;b</Key></Object>'
    body += b"<Object><Key>c/d</Key></Object><Object><Key>missing</Key></Object></Delete>"
    answer = answer_to(Request("POST", "/bucket", {"delete": ""}, {}, body), objects, "bucket")
    assert (answer.status, answer.body.count(b"<Deleted>")) == (200, 3)
    assert [entry.key for entry in objects.page("", "", "").entries] == ["kept"]
    assert answer_to(Request("POST", "/bucket", {"delete": ""}, {}, b"<Delete>"), objects, "bucket").status == 400
    assert answer_to(Request("POST", "/another", {"delete": ""}, {}, body), objects, "bucket").status == 404
    objects.close()


def test_a_conditional_write_fails_if_the_object_has_changed(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path / "objects.sqlite"))
    first = objects.put("k", b"1", only_new=True)
    assert first is not None
    assert objects.put("k", b"2", only_new=True) is None
    second = objects.put("k", b"2", if_match=first)
    assert second is not None
    assert objects.put("k", b"3", if_match=first) is None
    assert objects.put("other", b"3", if_match=first) is None
    stored = objects.get("k")
    assert stored is not None and (stored.data, stored.etag) == (b"2", second)
    objects.close()


OWNER = """
import asyncio, json, pathlib, sys
from kubeirq.on_machine.brokers import kafka_broker, nats_server
async def own():
    state = pathlib.Path(sys.argv[1])
    async with kafka_broker(state) as kafka, nats_server(state) as server:
        print(json.dumps([*kafka.pids, *server.pids]), flush=True)
        await asyncio.Event().wait()
asyncio.run(own())
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(holds, seconds: float = 30) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def restarted(broker: Broker, times: int) -> None:
    await until(lambda: broker.restarts >= times and not broker.problem)


async def create_topic(address: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    try:
        await admin.start()
        await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await admin.close()


async def produce(address: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=address)
    try:
        await producer.start()
        for value in values:
            await producer.send_and_wait("orders", value)
    finally:
        await producer.stop()


async def consume(address: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    try:
        await consumer.start()
        consumer.assign([TopicPartition("orders", 0)])
        found: list[bytes] = []
        async with asyncio.timeout(20):
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += [record.value for record in records]
        return found
    finally:
        await consumer.stop()


async def commit(address: str, offset: int) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=address, group_id="g", enable_auto_commit=False)
    try:
        await consumer.start()
        consumer.assign([TopicPartition("orders", 0)])
        await consumer.commit({TopicPartition("orders", 0): offset})
    finally:
        await consumer.stop()


async def committed(address: str) -> int | None:
    consumer = AIOKafkaConsumer(bootstrap_servers=address, group_id="g", enable_auto_commit=False)
    try:
        await consumer.start()
        consumer.assign([TopicPartition("orders", 0)])
        return await consumer.committed(TopicPartition("orders", 0))
    finally:
        await consumer.stop()


async def publish(address: str, data: bytes) -> None:
    client = await nats.connect(address)
    try:
        stream = client.jetstream()
        await stream.add_stream(StreamConfig(name="invoices", subjects=["invoices"]))
        await stream.publish("invoices", data)
    finally:
        await client.close()
