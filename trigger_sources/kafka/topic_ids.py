"""The ids that a broker gives its topics (KIP-516): a topic that is deleted and created again has another one."""

import asyncio
import base64
import random
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

_METADATA = 3
_VERSION = 10  # the first one with topic ids; brokers since Kafka 2.8 know it
_ANSWER_SECONDS = 3.0  # until another broker is asked
_SHORT = 8  # characters of an id in positions and event ids


class _Uuid(AbstractType[int]):  # type: ignore[misc]
    """Sixteen bytes, as a number. 0 stands for no id."""

    @classmethod
    def encode(cls, value: int) -> bytes:
        return value.to_bytes(16, "big")

    @classmethod
    def decode(cls, data: BytesIO) -> int:
        return int.from_bytes(data.read(16), "big")


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = _VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequest(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = _METADATA
    API_VERSION = _VERSION
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicIdsRequest(Request[_MetadataRequest]):  # type: ignore[misc]
    """Asks for the ids of topics. Unlike the client's own requests for metadata, it creates no topic."""

    API_KEY = _METADATA

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataRequest]) -> _MetadataRequest:
        return request_struct_class([(0, topic, {}) for topic in self._topics], False, False, False, {})


async def present_ids(consumer: AIOKafkaConsumer, expected: Mapping[str, int]) -> Mapping[str, int]:
    """The present ids of those topics that exist and have one. Raises KafkaError.

    One broker may be late with its news: an id other than the expected one counts only if no broker knows another.
    """
    if not expected:
        return {}
    brokers = [broker.nodeId for broker in consumer._client.cluster.brokers()]
    random.shuffle(brokers)
    found = await _first_answer(consumer, brokers, expected)
    surprising = {topic for topic, topic_id in found.items() if expected[topic] not in (0, topic_id)}
    for broker in brokers if surprising else ():
        told = await ids_at(consumer, broker, surprising)
        found = {topic: topic_id for topic, topic_id in found.items() if told.get(topic, topic_id) == topic_id}
    return found


async def _first_answer(
    consumer: AIOKafkaConsumer, brokers: Collection[int], topics: Collection[str]
) -> Mapping[str, int]:
    """The answer of the first broker that gives one: one of several may be away."""
    problem: KafkaError = NodeNotReadyError("no broker is known")
    for broker in brokers:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await ids_at(consumer, broker, topics)
        except TimeoutError:
            problem = RequestTimedOutError(f"broker {broker} does not answer")
        except KafkaError as error:
            problem = error
    raise problem


async def ids_at(consumer: AIOKafkaConsumer, broker: int, topics: Collection[str]) -> Mapping[str, int]:
    """The ids that one broker knows; empty if it is from before topic ids. Raises KafkaError."""
    return {topic: topic_id for topic, (topic_id, _) in (await topics_at(consumer, broker, topics)).items()}


async def topics_at(
    consumer: AIOKafkaConsumer, broker: int, topics: Collection[str]
) -> Mapping[str, tuple[int, Mapping[int, int]]]:
    """The ids that one broker knows, each with the epochs of the present leaders by partition. Raises KafkaError.

    Empty if the broker is from before topic ids.
    """
    client: Any = consumer._client
    try:
        answer = await client.send(broker, TopicIdsRequest(sorted(topics)))
    except (IncompatibleBrokerVersion, NotImplementedError):
        return {}
    return {
        topic: (topic_id, {partition: epoch for _, partition, _, epoch, *_ in partitions})
        for error, topic, topic_id, _, partitions, *_ in answer.topics
        if error == 0 and topic_id
    }


def short_id(topic_id: int) -> str:
    """The beginning of an id, as Kafka's own tools show it."""
    return base64.urlsafe_b64encode(topic_id.to_bytes(16, "big")).decode()[:_SHORT]
