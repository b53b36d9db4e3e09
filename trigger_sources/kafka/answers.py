"""Finds out which brokers answer: the client waits long for one that is away, and tells nobody."""

import asyncio
import random
from collections.abc import Collection

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from trigger_sources.kafka.topic_ids import ids_at

_LEAST_ASKED = 3  # one of several may hang


class Answers:
    """Of the brokers that one member of a group needs, and of a few others where it needs few."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._missing: set[int] = set()
        self.silent: set[int] = set()  # the ids of brokers that did not answer in two looks, one after the other

    async def look(self, needed: Collection[int], seconds: float) -> bool:
        """Asks these brokers, given by their ids, and renews the metadata. Returns whether any broker answered in time.

        The client asks brokers for metadata one after the other, so that one that hangs hides the others.
        """
        others = [broker.nodeId for broker in self._consumer._client.cluster.brokers() if broker.nodeId not in needed]
        random.shuffle(others)
        brokers = {*needed, *others[: max(0, _LEAST_ASKED - len(needed))]}
        asked = {broker: asyncio.create_task(self._answers(broker)) for broker in brokers}
        renewing = asyncio.create_task(self._renews())
        tasks = [renewing, *asked.values()]
        try:
            await asyncio.wait(tasks, timeout=seconds)
        finally:
            late = [task for task in tasks if task.cancel()]
            await asyncio.gather(*late, return_exceptions=True)
        missing = {broker for broker, task in asked.items() if task.cancelled() or not task.result()}
        self._missing, self.silent = missing, missing & self._missing
        return len(missing) < len(asked) or (not renewing.cancelled() and renewing.result())

    async def _answers(self, broker: int) -> bool:
        try:
            await ids_at(self._consumer, broker, ())
        except (KafkaError, OSError):
            return False
        return True

    async def _renews(self) -> bool:
        try:
            return bool(await self._consumer._client.force_metadata_update())
        except (KafkaError, OSError):
            return False
