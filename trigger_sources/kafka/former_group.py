"""A trigger that got another function goes on in that function's group, at the place of the former function's."""

import logging
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError

from trigger_sources.context import Context, SourceError
from trigger_sources.kafka.client import offsets_of
from trigger_sources.kafka.consumer import close_consumer, open_consumer
from trigger_sources.kafka.kept_places import KeptPlaces
from trigger_sources.kafka.security import Security

log = logging.getLogger(__name__)

_HAS_MEMBERS = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)


def group_of(context: Context, function: str = "") -> str:
    """The name of a function's group. Without `function`: the first part of the names of all groups of the trigger."""
    return f"kubeirq.{context.namespace}.{context.name}.{function}"


async def go_on_from_former_group(
    context: Context,
    admin: AIOKafkaAdminClient,
    *,
    cluster: str,
    group: str,
    brokers: Sequence[str],
    security: Security | None,
) -> None:
    """Commits the former group's places in `group`, once. Raises SourceError while either of them has members.

    The brokers take commits from outside of a group only while it has no members, so that no replica overwrites the
    places of another one that reads already.
    """
    kept = KeptPlaces(context, f"{cluster}/{group}")
    former = await kept.former_group(cluster)
    if former is None or not former.startswith(group_of(context)):
        return
    if members := await _members(admin, former):
        raise SourceError(
            "FormerFunctionRuns",
            f"consumer group {former} of the trigger's former function still has {members} members; {group} goes on at"
            " its place when they have left",
        )
    places = await offsets_of(admin, former)
    if places:
        consumer = await open_consumer(brokers, group, security, context, fetch_wait_ms=100)
        try:
            await _commit(consumer, places)
        except _HAS_MEMBERS as error:
            if await kept.former_group(cluster) is None:
                return  # another replica was faster
            raise SourceError(
                "FormerFunctionRuns", f"consumer group {group} has members, so it cannot take the place of {former} yet"
            ) from error
        finally:
            await close_consumer(consumer)
    await kept.begun()
    log.info(
        "goes on at the place of the former group",
        extra={"trigger": context.name, "group": group, "former": former, "partitions": len(places)},
    )


async def _members(admin: AIOKafkaAdminClient, group: str) -> int:
    (answer,) = await admin.describe_consumer_groups([group])
    (found,) = answer.groups
    return len(found[5])


async def _commit(consumer: AIOKafkaConsumer, places: dict[Any, Any]) -> None:
    consumer.assign(list(places))
    consumer.pause(*places)
    await consumer.commit(places)
