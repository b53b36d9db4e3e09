"""Finds out which member of a consumer group has a partition."""

from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.protocol.admin import DescribeGroupsRequest


async def holder_of(consumer: AIOKafkaConsumer, tp: TopicPartition) -> str:
    """The name and the address of a member of the consumer's group, for a person; empty if no member has the partition.

    Raises KafkaError, and ValueError where another program's assignment cannot be read.
    """
    coordinator: Any = consumer._coordinator
    answer = await coordinator._send_req(DescribeGroupsRequest([coordinator.group_id]))
    for _, _, _, _, _, members, *_ in answer.groups:
        for _, client, host, _, assignment in members:
            has = ConsumerProtocolMemberAssignment.decode(assignment).assignment if assignment else ()
            if any(topic == tp.topic and tp.partition in partitions for topic, partitions in has):
                return f"{client} ({host.lstrip('/')})"
    return ""
