"""The epochs of leaders in fetched records."""

import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder

from trigger_sources.kafka.leader_epochs import newest_epoch


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
