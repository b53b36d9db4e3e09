"""Asks the leaders of partitions, all at the same time: one without an answer stops no other one."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

T = TypeVar("T")

NO_LEADER = (None, -1)  # in the place of a broker's id
_ANSWER_SECONDS = 3.0


async def from_leaders(
    consumer: AIOKafkaConsumer,
    partitions: Collection[TopicPartition],
    ask: Callable[[int, Collection[TopicPartition]], Awaitable[Mapping[TopicPartition, T]]],
) -> tuple[dict[TopicPartition, T], set[TopicPartition]]:
    """The answers of the leaders, which are all asked at the same time, and the partitions without an answer.

    It takes a bounded time: a partition may have no leader, and a leader may hang. Raises KafkaError where a right is
    missing.
    """
    led: dict[int, list[TopicPartition]] = defaultdict(list)
    for tp in partitions:
        leader = consumer._client.cluster.leader_for_partition(tp)
        if leader not in NO_LEADER:
            led[leader].append(tp)
    answers = await asyncio.gather(*(_in_time(ask(leader, asked)) for leader, asked in led.items()))
    found = {tp: told for answer in answers for tp, told in answer.items()}
    unanswered = set(partitions) - found.keys()
    if unanswered:
        consumer._client.force_metadata_update()
    return found, unanswered


async def _in_time(answer: Awaitable[Mapping[TopicPartition, T]]) -> Mapping[TopicPartition, T]:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await answer
    except (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
        raise
    except (KafkaError, OSError, TimeoutError):
        return {}


async def first_offsets(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
) -> tuple[dict[TopicPartition, int], set[TopicPartition]]:
    """The offsets of the first records that are there, and the partitions without an answer. Raises KafkaError."""

    async def ask(_: int, asked: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        found: Mapping[TopicPartition, int] = await consumer.beginning_offsets(list(asked))
        return found

    return await from_leaders(consumer, partitions, ask)


async def end_offsets(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
) -> tuple[dict[TopicPartition, int], set[TopicPartition]]:
    """The offsets that the next records get, and the partitions without an answer. Raises KafkaError."""

    async def ask(_: int, asked: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        found: Mapping[TopicPartition, int] = await consumer.end_offsets(list(asked))
        return found

    return await from_leaders(consumer, partitions, ask)


async def offsets_since(
    consumer: AIOKafkaConsumer, times: Mapping[TopicPartition, int]
) -> tuple[dict[TopicPartition, int], set[TopicPartition]]:
    """The offsets of the first records from these times on, else the ends; and the partitions without an answer.

    The times are in milliseconds. Raises KafkaError.
    """

    async def ask(_: int, asked: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(list(asked))
        found = await consumer.offsets_for_times({tp: times[tp] for tp in asked})
        return {tp: end if (at := found.get(tp)) is None else at.offset for tp, end in ends.items()}

    return await from_leaders(consumer, times.keys(), ask)
