"""Replies and other publications to a Kafka topic, confirmed by all replicas in sync."""

from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordTooLargeError
from pydantic import Field

from trigger_sources.context import Context, SourceError
from trigger_sources.events import Event
from trigger_sources.kafka.client import (
    admin_client,
    advertised_by,
    brokers_of,
    create_topics,
    is_own_broker,
    send,
    shared_producer,
)
from trigger_sources.kafka.events import message_from_event
from trigger_sources.kafka.security import Security
from trigger_sources.publisher import ReplyRefused, ReplyTarget
from trigger_sources.spec import Brokers


class KafkaReply(ReplyTarget):
    """Publishes the function's answer as a record of a Kafka topic."""

    topic: str = Field(min_length=1, max_length=249, description="The topic to publish to")
    brokers: Brokers = Field(
        default_factory=list,
        description="The brokers, each as host:port; unset: the trigger's own, else the fabric's default",
    )
    security: Security | None = Field(None, description="The fields of a KafkaTrigger's security")

    @property
    def addresses(self) -> Mapping[str, Sequence[str]]:
        return {"kafka": self.brokers}

    async def open(self, context: Context, addresses: Mapping[str, Sequence[str]]) -> "KafkaPublisher":
        named = list(self.brokers) or list(addresses.get("kafka", ()))
        brokers = brokers_of(named, context)
        if not named:
            async with admin_client(brokers, self.security, context) as admin:
                if self.topic not in await admin.list_topics():
                    if not is_own_broker(named, context):
                        raise SourceError("TopicMissing", f"reply.kafka: no topic {self.topic!r}; create it")
                    await create_topics(admin, [self.topic])  # topics come with their first use
        return KafkaPublisher(await shared_producer(brokers, self.security, context), self.topic)


class KafkaPublisher:
    """Publishes to one topic, in the binary mode of the CloudEvents Kafka binding."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def publish(self, event: Event, key: bytes | None) -> None:
        headers, value = message_from_event(event)
        try:
            await send(self._producer, self._topic, value, key=key, headers=headers)
        except (MessageSizeTooLargeError, RecordTooLargeError) as error:
            raise ReplyRefused(f"reply to topic {self._topic!r}: {error}") from error
        except KafkaError as error:
            place = ", ".join(advertised_by(self._producer.client))
            raise OSError(f"reply to topic {self._topic!r} of {place}: {error}") from error

    async def close(self) -> None:
        """The producer is shared: it closes with its last user."""
