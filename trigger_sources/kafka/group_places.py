"""The places that a consumer group has committed."""

from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.errors import OffsetMetadataTooLargeError

from trigger_sources.kafka.commit_metadata import LEAST_BYTES, MOST_BYTES
from trigger_sources.kafka.places import Place, place_of_commit


async def committed_places(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, Place]:
    """Those of the consumer's group."""
    # The consumer's own `committed` hides the metadata; this is the call that it makes
    coordinator: Any = consumer._coordinator
    found = await coordinator.fetch_committed_offsets(list(partitions)) if partitions else {}
    return {tp: place_of_commit(at.offset, at.metadata or "") for tp, at in found.items() if at.offset >= 0}


async def commit_places(consumer: AIOKafkaConsumer, places: Mapping[TopicPartition, Place]) -> None:
    """Makes places the group's. Raises CommitFailedError where the assignment does not hold any more."""
    most_bytes = MOST_BYTES
    while places:
        commits = {tp: OffsetAndMetadata(place.offset, place.metadata(most_bytes)) for tp, place in places.items()}
        try:
            await consumer._coordinator.commit_offsets(None, commits)
        except OffsetMetadataTooLargeError:
            if most_bytes <= LEAST_BYTES:
                raise
            most_bytes //= 2
        else:
            return
