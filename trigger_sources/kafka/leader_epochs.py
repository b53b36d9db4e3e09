"""The epochs of partitions' leaders (KIP-320): they tell where a log was cut, however far it has grown since.

Each batch of records has the epoch of the leader that took it. A leader that lacks records of its predecessor begins
its epoch where its own log ended.
"""

import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IncompatibleBrokerVersion, TopicAuthorizationFailedError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Int64, Schema, String

from trigger_sources.kafka.leaders import from_leaders

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
) -> tuple[dict[TopicPartition, tuple[int, int]], set[TopicPartition]]:
    """Where the records of these epochs and of older ones end, and the epoch of the last one; and who gives no answer.

    A partition is in neither if its broker does not know that. Raises KafkaError where a right is missing.
    """

    async def ask(leader: int, asked: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        return await _answers(consumer, leader, {tp: epochs[tp] for tp in asked})

    found, unanswered = await from_leaders(consumer, epochs.keys(), ask)
    return {tp: (end, epoch) for tp, (end, epoch) in found.items() if epoch >= 0 and end >= 0}, unanswered


async def _answers(
    consumer: AIOKafkaConsumer, leader: int, epochs: Mapping[TopicPartition, int]
) -> Mapping[TopicPartition, tuple[int, int]]:
    client: Any = consumer._client
    try:
        answer = await client.send(leader, EndsOfEpochsRequest(epochs))
    except (IncompatibleBrokerVersion, NotImplementedError):
        return dict.fromkeys(epochs, (-1, -1))
    found = {}
    for topic, partitions in answer.topics:
        for code, partition, epoch, end in partitions:
            if code == TopicAuthorizationFailedError.errno:
                raise TopicAuthorizationFailedError(topic)
            if not code:
                found[TopicPartition(topic, partition)] = end, epoch
    return found


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
