"""The ids that a broker gives its topics (KIP-516): a topic that is deleted and created again has another one."""

import base64
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IncompatibleBrokerVersion, NodeNotReadyError
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

_METADATA = 3
_VERSION = 10  # the first one with topic ids; brokers since Kafka 2.8 know it
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
    node = consumer._client.get_random_node()
    if node is None:
        raise NodeNotReadyError("no broker is known")
    found = await _ids(consumer, node, expected)
    surprising = {topic for topic, topic_id in found.items() if expected[topic] not in (0, topic_id)}
    for broker in consumer._client.cluster.brokers() if surprising else ():
        told = await _ids(consumer, broker.nodeId, surprising)
        found = {topic: topic_id for topic, topic_id in found.items() if told.get(topic, topic_id) == topic_id}
    return found


async def _ids(consumer: AIOKafkaConsumer, node: int, topics: Collection[str]) -> Mapping[str, int]:
    client: Any = consumer._client
    try:
        answer = await client.send(node, TopicIdsRequest(sorted(topics)))
    except (IncompatibleBrokerVersion, NotImplementedError):
        return {}  # a broker from before topic ids
    return {topic: topic_id for error, topic, topic_id, *_ in answer.topics if error == 0 and topic_id}


def short_id(topic_id: int) -> str:
    """The beginning of an id, as Kafka's own tools show it."""
    return base64.urlsafe_b64encode(topic_id.to_bytes(16, "big")).decode()[:_SHORT]
