"""Clients of the Kafka brokers that a spec names, or of the fabric's own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NoError,
    TopicAlreadyExistsError,
    for_code,
)

from trigger_sources.context import Context, SourceError
from trigger_sources.credentials import identity_of
from trigger_sources.kafka.security import Security, client_arguments
from trigger_sources.transport.diagnosis import reasons_of

_PORT, _PROTOCOL = 9092, "a Kafka broker"
_PARTITIONS = 4  # of topics that are created here
_MOST_REPLICAS = 3
_END_SECONDS = 1.0
_MOST_TOGETHER_BYTES = 16_384  # the client sends a larger record alone


def brokers_of(brokers: Sequence[str], context: Context) -> list[str]:
    """The brokers that the spec names, else the fabric's own. Raises SourceError if there are none."""
    found = list(brokers) or list(context.defaults.get("kafka", ()))
    if not found:
        raise SourceError("NoBrokers", "spec.brokers: none is named, and the fabric has no default")
    return found


def is_own_broker(brokers: Sequence[str], context: Context) -> bool:
    """Whether a spec that names these brokers, or none, means the one that the fabric runs itself."""
    return not brokers and "kafka" in context.own_servers


async def not_connected(
    brokers: Sequence[str], security: Security | None, error: Exception, advertised: Sequence[str] = ()
) -> SourceError:
    """The error for a person, who does not see the client's log. It names the host, and why that does not answer.

    `advertised` are the addresses that the brokers give for themselves: the client goes on with these.
    """
    problem = f"{', '.join(brokers)}: {error or type(error).__name__}"
    others = [address for address in advertised if address not in brokers]
    if isinstance(error, KafkaConnectionError):  # its text does not name the cause
        problem = await reasons_of(brokers, _PORT, _PROTOCOL)
        if security is not None:
            problem += "; or the broker refuses spec.security"
    elif isinstance(error, NodeNotReadyError) and others:
        problem = (
            f"{', '.join(brokers)}: the brokers name themselves differently, and there they do not answer:"
            f" {await reasons_of(others, _PORT, _PROTOCOL)}; start them, make them reachable, or correct their"
            " advertised.listeners"
        )
    return SourceError("NotConnected", problem)


def advertised_by(client: AIOKafkaClient) -> list[str]:
    """The addresses that the brokers gave for themselves; empty before a broker answered."""
    return [f"{broker.host}:{broker.port}" for broker in client.cluster.brokers()]


async def start(client: AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient) -> None:
    """Starts it. A start that is cancelled has a second to end: aiokafka would leave its first connection open."""
    starting = asyncio.ensure_future(client.start())
    starting.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting}, timeout=_END_SECONDS)
        starting.cancel()
        await asyncio.wait({starting}, timeout=_END_SECONDS)
        raise


@contextlib.asynccontextmanager
async def admin_client(
    brokers: Sequence[str], security: Security | None, context: Context
) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client while the context is open. Raises SourceError if no broker answers."""
    arguments = await client_arguments(security, context)
    admin = AIOKafkaAdminClient(bootstrap_servers=list(brokers), request_timeout_ms=10_000, **arguments)
    try:
        await start(admin)
        yield admin
    except (KafkaError, OSError) as error:
        raise await not_connected(brokers, security, error, advertised_by(admin._client)) from error
    finally:
        await admin.close()


async def create_topics(
    admin: AIOKafkaAdminClient, names: Sequence[str], *, partitions: int = _PARTITIONS, **configuration: str
) -> None:
    """Creates topics; existing ones stay as they are. Raises SourceError if the broker refuses to create one."""
    replicas = min(_MOST_REPLICAS, len((await admin.describe_cluster())["brokers"]))
    topics = [NewTopic(name, partitions, replicas, topic_configs=configuration) for name in names]
    for name, code, *_ in (await admin.create_topics(topics)).topic_errors:
        error = for_code(code)
        if error not in (NoError, TopicAlreadyExistsError):
            raise SourceError(
                "TopicNotCreated", f"topic {name!r}: {error.__name__}; create it, or grant the right to create it"
            )


async def send(
    producer: AIOKafkaProducer,
    topic: str,
    value: bytes | None,
    *,
    key: bytes | None,
    headers: Sequence[tuple[str, bytes]] = (),
) -> None:
    """Returns once the record is durable. Raises MessageSizeTooLargeError if the topic does not take it, even alone.

    The client sends records together, and brokers refuse all of them where that is more than a topic's record may be.
    """
    try:
        await producer.send_and_wait(topic, value, key=key, headers=headers)
    except MessageSizeTooLargeError:
        if len(value or b"") > _MOST_TOGETHER_BYTES:
            raise
        partition = producer._partition(topic, None, key, value, key, value)
        batch = producer.create_batch()
        batch.append(key=key, value=value, timestamp=None, headers=headers)
        batch.close()
        await (await producer.send_batch(batch, topic, partition=partition))


async def shared_producer(brokers: Sequence[str], security: Security | None, context: Context) -> AIOKafkaProducer:
    """One producer for these brokers and this identity in the process."""

    async def open_() -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=list(brokers),
            acks="all",
            linger_ms=0,
            max_batch_size=_MOST_TOGETHER_BYTES,
            max_request_size=16 * 1024 * 1024,
            request_timeout_ms=20_000,
            **await client_arguments(security, context),
        )
        try:
            await start(producer)
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def close(producer: AIOKafkaProducer) -> None:
        await producer.stop()

    key = f"kafka-producer/{context.namespace}/{','.join(sorted(brokers))}/{await identity_of(security, context)}"
    return await context.shared(key, open_, close)
