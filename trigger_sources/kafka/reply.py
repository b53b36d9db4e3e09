"""Replies and other publications to a Kafka topic, confirmed by all replicas in sync."""

from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordTooLargeError

from trigger_sources.dispatch.replies import ReplyRefused
from trigger_sources.events import Event
from trigger_sources.kafka.events import headers_from_event
from trigger_sources.kafka.security import Security, client_arguments
from trigger_sources.kafka.trigger import admin_client, brokers_of, create_topics
from trigger_sources.source import Context
from trigger_sources.spec import KafkaReply


async def open_publisher(reply: KafkaReply, context: Context, brokers: Sequence[str]) -> "KafkaPublisher":
    """`brokers` are the trigger's own, for a reply that names none. Raises SourceError, MissingSecret."""
    security = Security.model_validate(reply.security) if reply.security else None
    named = list(reply.brokers) or list(brokers)
    addresses = brokers_of(named, context)
    if not named:  # the fabric's own broker: topics come with their first use
        async with admin_client(addresses, security, context) as admin:
            if reply.topic not in await admin.list_topics():
                await create_topics(admin, [reply.topic])
    producer = await shared_producer(addresses, security, context)
    return KafkaPublisher(producer, reply.topic)


async def shared_producer(brokers: Sequence[str], security: Security | None, context: Context) -> AIOKafkaProducer:
    """One producer for these brokers and this identity in the process."""

    async def open_() -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=list(brokers),
            acks="all",
            linger_ms=0,
            max_request_size=16 * 1024 * 1024,
            request_timeout_ms=20_000,
            **await client_arguments(security, context),
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def close(producer: AIOKafkaProducer) -> None:
        await producer.stop()

    key = f"kafka-producer/{context.namespace}/{','.join(sorted(brokers))}/{security!r}"
    return await context.shared(key, open_, close)


class KafkaPublisher:
    """Publishes to one topic in the CloudEvents Kafka binding's binary mode."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def publish(self, event: Event, key: bytes | None) -> None:
        try:
            await self._producer.send_and_wait(self._topic, event.data, key=key, headers=headers_from_event(event))
        except (MessageSizeTooLargeError, RecordTooLargeError) as error:
            raise ReplyRefused(f"reply to topic {self._topic!r}: {error}") from error

    async def close(self) -> None:
        """The producer is shared: it is closed with its last owner."""
