"""Commits the places of a member's partitions after their records settled."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaError,
    OffsetMetadataTooLargeError,
    TopicAuthorizationFailedError,
)

from trigger_sources.kafka.partition import Partition

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.02  # after a crash, events that settled since the last commit are repeated: keep this short
_SHARE = 0.1  # the largest share of the time that commits take
_MOST_SECONDS = 1.0


class Commits:
    """Of one member, which changes `partitions` itself and sets `consumer` when it joins.

    `on_refused` hears that commits are refused, and with False that they are accepted again.
    """

    consumer: AIOKafkaConsumer

    def __init__(
        self, trigger: str, partitions: Mapping[TopicPartition, Partition], on_refused: Callable[[bool], None]
    ) -> None:
        self.settled = asyncio.Event()  # set when there may be something to commit
        self.refusal = ""  # why commits are refused
        self._trigger = trigger
        self._partitions = partitions
        self._on_refused = on_refused
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Commits again and again, and takes a small share of the time for it."""
        clock = asyncio.get_running_loop().time
        pause_seconds = _PAUSE_SECONDS
        while True:
            await self.settled.wait()
            await asyncio.sleep(pause_seconds)
            began = clock()
            try:
                await self.commit()
            except Exception:
                log.exception("commit failed", extra={"trigger": self._trigger})
            least_seconds = _MOST_SECONDS if self.refusal else _PAUSE_SECONDS
            pause_seconds = min(_MOST_SECONDS, max(least_seconds, (clock() - began) / _SHARE))

    async def commit(self) -> None:
        """Commits the places that changed. One that the brokers do not accept is tried again by `run`."""
        async with self._lock:
            while await self._is_too_large():
                pass

    async def _is_too_large(self) -> bool:
        """Commits. Returns whether the metadata was too large for the brokers; it is smaller now."""
        self.settled.clear()
        changed = [
            (partition, snapshot)
            for partition in self._partitions.values()
            if (snapshot := partition.snapshot()) != partition.committed and partition.reads
        ]
        if not changed:
            return False
        try:
            await self.consumer.commit({partition.tp: snapshot for partition, snapshot in changed})
        except (CommitFailedError, IllegalStateError) as error:
            # Of an older generation: the member that has the partition now commits
            log.info("commit out of date", extra={"trigger": self._trigger, "error": repr(error)})
            return False
        except OffsetMetadataTooLargeError:
            self.settled.set()
            shrunk = [partition.shrink() for partition, _ in changed]
            return any(shrunk)
        except KafkaError as error:
            log.info("commit not accepted", extra={"trigger": self._trigger, "error": repr(error)})
            self.settled.set()
            if isinstance(error, TopicAuthorizationFailedError | GroupAuthorizationFailedError):
                self.refusal = f"commits are refused, so nothing is delivered: {type(error).__name__}: {error}"
                self._on_refused(True)
            return False
        self.accepted()
        for partition, snapshot in changed:
            partition.committed = snapshot
        return False

    def accepted(self) -> None:
        """Commits may be accepted, as far as is known now."""
        if self.refusal:
            self.refusal = ""
            self._on_refused(False)
