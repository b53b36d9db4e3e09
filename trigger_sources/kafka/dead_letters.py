"""A Kafka trigger's dead letters: records of a compacted topic on the same brokers, removed by tombstones."""

import contextlib
import copy
import hashlib
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from trigger_sources.context import Context, SourceError
from trigger_sources.dead_letters import (
    DeadLetter,
    LetterTooLarge,
    Unreadable,
    letter_from_metadata,
    log_unreadable,
    metadata_from_letter,
)
from trigger_sources.kafka.client import admin_client, brokers_of, create_topics, send, shared_producer, start
from trigger_sources.kafka.security import Security, client_arguments

METADATA_HEADER = "kubeirq-dead-letter"
_LARGEST_BYTES = 16 * 1024 * 1024
_OFFSET_BITS = 48
_SILENCE_SECONDS = 30.0


class KafkaDeadLetters:
    """The original bytes are the record's value, the rest is JSON in a header. The key is the letter's identity."""

    def __init__(self, topic: str, brokers: Sequence[str], security: Security | None, context: Context) -> None:
        self.topic = topic
        self._brokers = brokers
        self._security = security
        self._context = context
        self._function = context.function
        self._unreadable: Callable[[Unreadable], None] = log_unreadable
        self._producer: AIOKafkaProducer | None = None

    async def functions(self) -> list[str]:
        """Reads the keys of the whole topic."""
        newest = await self._newest(f"{self._context.uid}/")
        return sorted({function for _, function in newest.values()})

    def of(self, function: str, unreadable: Callable[[Unreadable], None]) -> "KafkaDeadLetters":
        other = copy.copy(self)
        other._function, other._unreadable = function, unreadable
        return other

    async def place(self) -> str:
        async with admin_client(brokers_of(self._brokers, self._context), self._security, self._context) as admin:
            if self.topic not in await admin.list_topics():
                return ""
            return f"kafka/{(await admin.describe_cluster()).get('cluster_id')}/{self.topic}"

    async def prepare(self) -> None:
        security, context = self._security, self._context
        brokers = brokers_of(self._brokers, context)
        async with admin_client(brokers, security, context) as admin:
            if self.topic not in await admin.list_topics():
                settings = {"cleanup.policy": "compact", "max.message.bytes": str(_LARGEST_BYTES)}
                await create_topics(admin, [self.topic], partitions=1, **settings)
        await self._open_producer()

    async def _open_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            brokers = brokers_of(self._brokers, self._context)
            self._producer = await shared_producer(brokers, self._security, self._context)
        return self._producer

    async def write(self, letter: DeadLetter) -> None:
        assert self._producer is not None
        headers = [*letter.headers, (METADATA_HEADER, metadata_from_letter(letter))]
        try:
            await send(self._producer, self.topic, letter.event.data or b"", key=_key(letter), headers=headers)
        except MessageSizeTooLargeError as error:
            raise LetterTooLarge(
                f"topic {self.topic!r}: {error}; its max.message.bytes bounds a dead letter"
            ) from error

    async def remove(self, letter: DeadLetter) -> None:
        # A trigger whose pattern matches this topic knows by the header that the record is no event
        headers = [(METADATA_HEADER, orjson.dumps({"triggerUid": letter.trigger_uid}))]
        await send(await self._open_producer(), self.topic, None, key=_key(letter), headers=headers)

    async def letters(self) -> AsyncIterator[DeadLetter]:
        """Reads the topic twice: first where each letter is, then the letters, one at a time, in their order there."""
        newest = await self._newest(self._mine)
        if not newest:
            return
        async with contextlib.aclosing(self._records()) as records:
            async for place, key, metadata, value in records:
                found = newest.get(_digest(key))
                if found is None or found[0] != place or metadata is None or value is None:
                    continue
                try:
                    letter = letter_from_metadata(metadata, value)
                except ValueError as error:  # from another program, or of a newer version: it stays where it is
                    partition, offset = place >> _OFFSET_BITS, place & (1 << _OFFSET_BITS) - 1
                    self._unreadable(
                        Unreadable(f"topic {self.topic}, partition {partition}, offset {offset}", str(error))
                    )
                    continue
                yield letter

    async def count(self) -> int:
        async with admin_client(brokers_of(self._brokers, self._context), self._security, self._context) as admin:
            if self.topic not in await admin.list_topics():
                return 0
        return len(await self._newest(self._mine))

    @property
    def _mine(self) -> str:
        return f"{self._context.uid}/{self._function}/"

    async def _newest(self, mine: str) -> dict[int, tuple[int, str]]:
        """The place and function of each letter, by the digest of its key: 200 bytes a letter, however large it is."""
        found: dict[int, tuple[int, str]] = {}
        whose = len(f"{self._context.uid}/".encode())
        async with contextlib.aclosing(self._records()) as records:
            async for place, key, metadata, value in records:
                if not key.startswith(mine.encode()):
                    continue
                if metadata is None or value is None:
                    found.pop(_digest(key), None)
                else:
                    function = key[whose:].partition(b"/")[0].decode(errors="backslashreplace")
                    found[_digest(key)] = (place, sys.intern(function))
        return found

    async def close(self) -> None:
        """The producer is shared: it closes with its last user."""

    async def _records(self) -> AsyncGenerator[tuple[int, bytes, bytes | None, bytes | None], None]:
        """Place, key, metadata and value of each record, from the beginning to the present end."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=brokers_of(self._brokers, self._context),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=_LARGEST_BYTES,
            **await client_arguments(self._security, self._context),
        )
        try:
            await start(consumer)
            partitions = [TopicPartition(self.topic, p) for p in consumer.partitions_for_topic(self.topic) or {0}]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            await consumer.seek_to_beginning(*partitions)
            silent_since = time.monotonic()
            while True:
                behind = [tp for tp in partitions if await consumer.position(tp) < ends[tp]]
                if not behind:
                    return
                found = await consumer.getmany(*behind, timeout_ms=500)
                if found:
                    silent_since = time.monotonic()
                elif time.monotonic() - silent_since > _SILENCE_SECONDS:
                    # The client itself would try forever, silently
                    raise SourceError("NotConnected", f"topic {self.topic!r}: the broker stopped answering")
                for records in found.values():
                    for record in records:
                        metadata = dict(record.headers).get(METADATA_HEADER)
                        place = record.partition << _OFFSET_BITS | record.offset
                        yield place, record.key or b"", metadata, record.value
        finally:
            await consumer.stop()


def _digest(key: bytes) -> int:
    """Stands for the key among a million others: 64 bits."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")


def _key(letter: DeadLetter) -> bytes:
    return f"{letter.trigger_uid}/{letter.identity}".encode()
