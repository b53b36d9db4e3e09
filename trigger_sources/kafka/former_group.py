"""The places of the group that a trigger had with its former function: it goes on there in the new function's group."""

import logging
from collections.abc import Awaitable, Callable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code

from trigger_sources.context import Context, SourceError
from trigger_sources.kafka.consumer import close_consumer
from trigger_sources.kafka.group_places import committed_places
from trigger_sources.kafka.kept_places import KeptPlaces
from trigger_sources.kafka.places import Place

log = logging.getLogger(__name__)


def group_of(context: Context, function: str = "") -> str:
    """The name of a function's group. Without `function`: the first part of the names of all groups of the trigger."""
    return f"kubeirq.{context.namespace}.{context.name}.{function}"


async def places_of_former_group(
    context: Context,
    admin: AIOKafkaAdminClient,
    *,
    cluster: str,
    group: str,
    reads: Callable[[str], bool],
    open_in: Callable[[str], Awaitable[AIOKafkaConsumer]],
) -> Mapping[TopicPartition, Place] | None:
    """The former group's places, if the trigger's state says that it began in another group of its own.

    `reads` says which topics the trigger reads, and `open_in` opens a consumer of a group. Raises SourceError while
    the former group has members, whose places still change.
    """
    former = await KeptPlaces(context, f"{cluster}/{group}").former_group(cluster)
    if former is None or not former.startswith(group_of(context)):
        return None
    if members := await _members(admin, former):
        raise SourceError(
            "FormerFunctionRuns",
            f"consumer group {former} of the trigger's former function still has {members} members; {group} goes on at"
            " its place when they have left",
        )
    places = await _places(admin, reads, await open_in(former))
    log.info(
        "goes on at the place of the former group",
        extra={
            "trigger": context.name,
            "group": group,
            "former": former,
            "offsets": {f"{tp.topic}/{tp.partition}": place.offset for tp, place in places.items()},
        },
    )
    return places


async def _members(admin: AIOKafkaAdminClient, group: str) -> int:
    (answer,) = await admin.describe_consumer_groups([group])
    ((code, _, _, _, _, members, *_),) = answer.groups
    if code:
        raise for_code(code)(f"group {group}")
    # The embedded broker keeps members that have left, without the addresses of their clients
    return sum(bool(host) for _, _, host, *_ in members)


async def _places(
    admin: AIOKafkaAdminClient, reads: Callable[[str], bool], consumer: AIOKafkaConsumer
) -> Mapping[TopicPartition, Place]:
    try:
        topics = [found for found in await admin.describe_topics() if reads(found["topic"])]
        partitions = [
            TopicPartition(found["topic"], one["partition"]) for found in topics for one in found["partitions"]
        ]
        # Unlike the admin client, it tells a coordinator that does not know yet from a group without commits
        return await committed_places(consumer, partitions)
    finally:
        await close_consumer(consumer)
