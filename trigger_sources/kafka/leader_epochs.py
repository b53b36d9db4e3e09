"""The epochs of partitions' leaders (KIP-320): they tell where a log was cut, however far it has grown since.

Each batch of records has the epoch of the leader that took it. A leader that lacks records of its predecessor begins
its epoch where its own log ended.
"""

import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, LeaderNotAvailableError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Int64, Schema, String

_END_OF_EPOCH = 23
_VERSION = 3  # the first one for which a right to describe the topic is enough; brokers since Kafka 2.3 know it
_CONSUMER = -1  # in the place of a replica's id
_ANY_EPOCH = -1
_FETCH = 1
_HEAD = struct.Struct(">8xiib")  # of a batch: its length behind this field, its leader's epoch, its format
_BEFORE_LENGTH = 12
_FORMAT_WITH_EPOCHS = 2


class _EndOfEpochResponse(Response):  # type: ignore[misc]
    API_KEY = _END_OF_EPOCH
    API_VERSION = _VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16), ("partition", Int32), ("leader_epoch", Int32), ("end_offset", Int64)
                    ),
                ),
            ),
        ),
    )  # fmt: skip


class _EndOfEpochRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = _END_OF_EPOCH
    API_VERSION = _VERSION
    RESPONSE_TYPE = _EndOfEpochResponse
    SCHEMA = Schema(
        ("replica_id", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(("partition", Int32), ("current_leader_epoch", Int32), ("leader_epoch", Int32)),
                ),
            ),
        ),
    )


class EndsOfEpochsRequest(Request[_EndOfEpochRequest]):  # type: ignore[misc]
    """Asks the leader of partitions where these epochs end."""

    API_KEY = _END_OF_EPOCH

    def __init__(self, epochs: Mapping[TopicPartition, int]) -> None:
        self._epochs = epochs

    def build(self, request_struct_class: type[_EndOfEpochRequest]) -> _EndOfEpochRequest:
        topics = defaultdict(list)
        for tp, epoch in self._epochs.items():
            topics[tp.topic].append((tp.partition, _ANY_EPOCH, epoch))
        return request_struct_class(_CONSUMER, list(topics.items()))


async def ends_of_epochs(
    consumer: AIOKafkaConsumer, epochs: Mapping[TopicPartition, int]
) -> dict[TopicPartition, tuple[int, int]]:
    """Where the records of these epochs and of older ones end, and the epoch of the last one. Raises KafkaError.

    A partition is left out if its broker does not know that.
    """
    leaders: dict[int, dict[TopicPartition, int]] = defaultdict(dict)
    for tp, epoch in epochs.items():
        leader = consumer._client.cluster.leader_for_partition(tp)
        if leader in (None, -1):
            raise LeaderNotAvailableError(str(tp))
        leaders[leader][tp] = epoch
    found = {}
    for leader, asked in leaders.items():
        for tp, code, epoch, end in await _answers(consumer, leader, asked):
            if code:
                consumer._client.force_metadata_update()
                raise _error(code, tp)
            if epoch >= 0 and end >= 0:
                found[tp] = end, epoch
    return found


async def _answers(
    consumer: AIOKafkaConsumer, leader: int, epochs: Mapping[TopicPartition, int]
) -> Collection[tuple[TopicPartition, int, int, int]]:
    client: Any = consumer._client
    try:
        answer = await client.send(leader, EndsOfEpochsRequest(epochs))
    except (IncompatibleBrokerVersion, NotImplementedError):
        return ()
    return [
        (TopicPartition(topic, partition), code, epoch, end)
        for topic, partitions in answer.topics
        for code, partition, epoch, end in partitions
    ]


def _error(code: int, tp: TopicPartition) -> KafkaError:
    error: KafkaError = for_code(code)(str(tp))
    return error


def watch_epochs(consumer: AIOKafkaConsumer, fetched: Callable[[TopicPartition, int], None]) -> None:
    """Tells the newest epoch of the records that each fetch brings, before any of them can be read."""
    client: Any = consumer._client
    send = client.send

    async def watched(node: int, request: Any, **more: Any) -> Any:
        answer = await send(node, request, **more)
        if getattr(answer, "API_KEY", None) == _FETCH:
            for topic, partitions in answer.topics:
                for partition, *_, records in partitions:
                    if records and (epoch := newest_epoch(records)) >= 0:
                        fetched(TopicPartition(topic, partition), epoch)
        return answer

    client.send = watched


def newest_epoch(records: bytes) -> int:
    """The epoch of the last of these batches, whose end may be cut off; -1 if it has none."""
    at, found = 0, -1
    while at + _HEAD.size <= len(records):
        length, epoch, format_ = _HEAD.unpack_from(records, at)
        if format_ < _FORMAT_WITH_EPOCHS or length <= 0:
            return -1
        found = epoch
        at += _BEFORE_LENGTH + length
    return found
