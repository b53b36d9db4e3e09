"""The KafkaTrigger resource."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

from aiokafka import AIOKafkaConsumer
from aiokafka.abc import ConsumerRebalanceListener
from pydantic import Field, field_validator, model_validator

from trigger_sources.context import Context, SourceError
from trigger_sources.dead_letters import DeadLetters
from trigger_sources.delivery import Delivery
from trigger_sources.kafka.client import admin_client, brokers_of, create_topics, is_own_broker
from trigger_sources.kafka.consumer import close_consumer, open_consumer
from trigger_sources.kafka.dead_letters import KafkaDeadLetters
from trigger_sources.kafka.first_start import milliseconds
from trigger_sources.kafka.former_group import group_of, places_of_former_group
from trigger_sources.kafka.health import missing_text
from trigger_sources.kafka.member import Member
from trigger_sources.kafka.remembered import forget
from trigger_sources.kafka.security import Security
from trigger_sources.kafka.topic_names import ListedTopics, TopicNames, subscribe
from trigger_sources.source import Lag, Ordering, Sharing, TriggerSource
from trigger_sources.spec import Brokers


class KafkaTrigger(TriggerSource):
    """Calls a function for each record of Kafka topics, in order per key, committed after delivery."""

    sharing: ClassVar[Sharing] = "partitioned"
    default_ordering: ClassVar[Ordering] = "key"
    letter_fields: ClassVar[Sequence[str]] = ("brokers",)
    printer_columns: ClassVar[Mapping[str, str]] = {"Topics": "topics"}

    brokers: Brokers = Field(
        default_factory=list, description="The brokers, each as host:port; unset: the fabric's default"
    )
    topics: list[str] = Field(default_factory=list, description="The topics, by name")
    topic_pattern: str | None = Field(
        None,
        description="A regular expression of RE2; a topic whose whole name matches it is read, also one created later",
    )
    group: str | None = Field(
        None,
        min_length=1,
        description="The consumer group, for one function; unset: kubeirq.<namespace>.<trigger>.<function>",
    )
    start: str = Field(
        "earliest",
        description="The place where a group without commits begins, once: earliest, latest or an RFC 3339 time",
    )
    tombstones: Literal["deliver", "skip"] = Field(
        "deliver", description="Whether records without a value call the function"
    )
    max_distance: int = Field(
        10_000,
        ge=1,
        description="The most records of a partition from the lowest unsettled one to the newest one that was taken",
    )
    create_topics: bool = Field(
        False, description="Whether missing topics are created; on the fabric's own broker they always are"
    )
    security: Security | None = Field(None, description="Encryption and login; unset: plain text, no login")

    @field_validator("topics")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        for topic in value:
            if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic):
                raise ValueError(f"{topic!r} is not a topic: letters, digits, ., _ and -, at most 249")
        return value

    @field_validator("start")
    @classmethod
    def _known_start(cls, value: str) -> str:
        if value not in ("earliest", "latest"):
            milliseconds(value)
        return value

    @model_validator(mode="after")
    def _names_topics(self) -> "KafkaTrigger":
        if self.topics and self.topic_pattern:
            raise ValueError("topics and topicPattern: one of them")
        if not self.topics and not self.topic_pattern:
            raise ValueError("topics: at least one topic is needed")
        if self.delivery.dead_letter.name in self.topics:
            raise ValueError("delivery.deadLetter.name: one of spec.topics; dead letters would be read as events")
        if self.topic_pattern:
            try:
                TopicNames(self.topic_pattern, None)
            except ValueError as error:
                raise ValueError(f"topicPattern: {error}") from None
        return self

    @property
    def fan_out(self) -> bool:  # type: ignore[override]
        """Whether a selector may match several functions: in one group, each would get a part of the records."""
        return self.group is None

    @property
    def addresses(self) -> Mapping[str, Sequence[str]]:
        return {"kafka": self.brokers}

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        brokers = brokers_of(self.brokers, context)
        group = self.group or group_of(context, context.function)
        # The embedded broker does not wake a waiting fetch when a record comes; Apache Kafka does
        fetch_wait_ms = 10 if is_own_broker(self.brokers, context) else 100

        async def open_in(group: str) -> AIOKafkaConsumer:
            return await open_consumer(brokers, group, self.security, context, fetch_wait_ms=fetch_wait_ms)

        async with admin_client(brokers, self.security, context) as admin:
            cluster = (await admin.describe_cluster()).get("cluster_id") or "kafka"
            some_are_missing = len(self.topics) > 1 and not set(self.topics) <= set(await admin.list_topics())
            former = None
            if self.group is None:
                names = TopicNames(self.topic_pattern, self.delivery.dead_letter.name) if self.topic_pattern else None
                former = await places_of_former_group(
                    context,
                    admin,
                    cluster=cluster,
                    group=group,
                    reads=names.match if names is not None else self.topics.__contains__,
                    open_in=open_in,
                )
        consumer = await open_in(group)
        member = Member(
            context,
            cluster=cluster,
            group=group,
            topics=self.topics,
            by_pattern=self.topic_pattern is not None,
            start=self.start,
            former=former,
            max_distance=self.max_distance,
            skips_tombstones=self.tombstones == "skip",
            concurrency=self.concurrency,
        )
        identity = context.uid, context.function
        try:
            await member.join(consumer, partial(self._subscribe, consumer, some_are_missing))
            _MEMBERS[identity] = member
            while not context.stopping.is_set():
                deliveries = await member.read()
                if deliveries:
                    yield deliveries
        finally:
            if _MEMBERS.get(identity) is member:
                del _MEMBERS[identity]
            try:
                await member.leave()
            finally:
                await close_consumer(consumer)

    def _subscribe(
        self, consumer: AIOKafkaConsumer, some_are_missing: bool, listener: ConsumerRebalanceListener
    ) -> None:
        if self.topic_pattern:
            subscribe(consumer, TopicNames(self.topic_pattern, self.delivery.dead_letter.name), listener)
        elif some_are_missing:
            subscribe(consumer, ListedTopics(self.topics), listener)
        else:
            consumer.subscribe(topics=self.topics, listener=listener)

    async def lag(self, context: Context) -> Lag | None:
        member = _MEMBERS.get((context.uid, context.function))
        return await member.lag() if member is not None else None

    def uncommitted(self, context: Context) -> int | None:
        member = _MEMBERS.get((context.uid, context.function))
        return member.uncommitted if member is not None else None

    def forget(self, context: Context) -> None:
        forget(context.uid, context.function)

    async def prepare(self, context: Context) -> None:
        """Creates missing topics if that is allowed. Otherwise at least one has to exist: it is read, and the condition
        names the others.
        """
        if not self.topics:
            return
        async with admin_client(brokers_of(self.brokers, context), self.security, context) as admin:
            missing = sorted(set(self.topics) - set(await admin.list_topics()))
            if not missing:
                return
            if not self.create_topics and not is_own_broker(self.brokers, context):
                if len(missing) < len(set(self.topics)):
                    return
                raise SourceError("TopicMissing", missing_text(missing))
            await create_topics(admin, missing)

    def dead_letters(self, context: Context) -> DeadLetters:
        topic = self.delivery.dead_letter.name or f"kubeirq.{context.namespace}.{context.name}.dead-letters"
        return KafkaDeadLetters(topic, self.brokers, self.security, context)


# Running members, for `lag` and `uncommitted`, which are called while the generator runs.
_MEMBERS: dict[tuple[str, str], Member] = {}
