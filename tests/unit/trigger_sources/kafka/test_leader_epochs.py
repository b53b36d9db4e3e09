"""The epochs of leaders in fetched records."""

import asyncio
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import NotLeaderForPartitionError, TopicAuthorizationFailedError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder

from trigger_sources.kafka import leaders
from trigger_sources.kafka.leader_epochs import ends_of_epochs, newest_epoch


def batch(epoch: int) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10_000)
    builder.append(0, 1, b"k", b"v", [])
    data = bytearray(builder.build())
    struct.pack_into(">i", data, 12, epoch)
    return bytes(data)


@pytest.mark.parametrize(
    ("records", "epoch"),
    [
        (b"", -1),
        (batch(0), 0),
        (batch(3) + batch(4), 4),
        (batch(3) + batch(70_000)[:30], 70_000),  # the end of an answer may be cut off
        (batch(3) + batch(4)[:10], 3),
        (batch(-1), -1),
        (b"\x00" * 40, -1),
    ],
)
def test_the_newest_epoch_of_fetched_batches(records: bytes, epoch: int) -> None:
    assert newest_epoch(records) == epoch


def test_records_in_an_old_format_have_none() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 10_000)
    builder.append(0, 1, b"k", b"v")
    assert newest_epoch(bytes(builder.build())) == -1


async def test_a_partition_whose_leader_gives_no_answer_hides_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has no leader, one has a leader that hangs, and one has just got another leader."""
    monkeypatch.setattr(leaders, "_ANSWER_SECONDS", 0.1)
    led = {TopicPartition("t", number): leader for number, leader in enumerate((1, -1, None, 2, 3))}
    consumer = consumer_of(led, {3: NotLeaderForPartitionError.errno})
    found, unanswered = await ends_of_epochs(consumer, dict.fromkeys(led, 5))
    assert found == {TopicPartition("t", 0): (100, 5)}
    assert unanswered == led.keys() - found.keys()


async def test_a_missing_right_is_told() -> None:
    tp = TopicPartition("t", 0)
    with pytest.raises(TopicAuthorizationFailedError):
        await ends_of_epochs(consumer_of({tp: 1}, {1: TopicAuthorizationFailedError.errno}), {tp: 5})


def consumer_of(led: dict[TopicPartition, int | None], codes: dict[int, int]) -> Any:
    """Broker 2 hangs."""

    async def send(leader: int, request: Any) -> Any:
        if leader == 2:
            await asyncio.sleep(60)
        code = codes.get(leader, 0)
        return SimpleNamespace(topics=[(tp.topic, [(code, tp.partition, 5, 100)]) for tp in request._epochs])

    cluster = SimpleNamespace(leader_for_partition=led.get)
    return SimpleNamespace(_client=SimpleNamespace(cluster=cluster, send=send, force_metadata_update=lambda: None))
