"""Publishes an event to the source of a trigger, as any client of that source would."""

import asyncio
import uuid
from typing import Any

import aiohttp

from kubeirq.on_machine.fabric import Fabric
from trigger_sources.dispatch.flows import TriggerResource

_SECONDS = 60


class CannotPublish(Exception):
    """The trigger's source accepts no events from outside, or does not answer. The text says what to do instead."""


async def publish(
    trigger: TriggerResource, fabric: Fabric, data: bytes, content_type: str, key: bytes | None, count: int
) -> list[str]:
    """Publishes, and returns the positions if the source gives any. Raises CannotPublish, OSError."""
    fields = type(trigger.spec).model_fields
    if "topics" in fields:
        return await _to_kafka(trigger, fabric, data, content_type, key, count)
    if "subject" in fields:
        return await _to_nats(trigger, fabric, data, content_type, count)
    if "methods" in fields:
        return await _to_http(trigger, fabric, data, content_type, count)
    raise CannotPublish(
        f"{trigger.kind} {trigger.name}: its source accepts no events; use `kubeirq call` on its function"
    )


async def _to_kafka(
    trigger: TriggerResource, fabric: Fabric, data: bytes, content_type: str, key: bytes | None, count: int
) -> list[str]:
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaError

    topics = getattr(trigger.spec, "topics", None)
    if not topics:
        raise CannotPublish(f"{trigger.name}: it has a topic pattern, not a topic; publish with your own client")
    if getattr(trigger.spec, "security", None):
        raise CannotPublish(f"{trigger.name}: its brokers need credentials; publish with your own client")
    brokers = list(trigger.spec.addresses.get("kafka") or fabric.host.defaults.get("kafka", ()))
    producer: Any = AIOKafkaProducer(bootstrap_servers=brokers, acks="all")
    headers = [("content-type", content_type.encode())]
    try:
        async with asyncio.timeout(_SECONDS):
            await producer.start()
            sent = [await producer.send(topics[0], data, key=key, headers=headers) for _ in range(count)]
            records = await asyncio.gather(*sent)
    except KafkaError as error:
        raise CannotPublish(f"{trigger.name}: {', '.join(brokers)}: {error}") from error
    finally:
        await producer.stop()
    return [f"{record.topic}/{record.partition}/{record.offset}" for record in records]


async def _to_nats(trigger: TriggerResource, fabric: Fabric, data: bytes, content_type: str, count: int) -> list[str]:
    import nats
    from nats.errors import Error
    from nats.js.errors import NoStreamResponseError

    subject = str(getattr(trigger.spec, "subject", ""))
    if "*" in subject or ">" in subject:
        raise CannotPublish(f"{trigger.name}: its subject {subject!r} is a pattern; publish with your own client")
    if getattr(trigger.spec, "security", None):
        raise CannotPublish(f"{trigger.name}: its servers need credentials; publish with your own client")
    servers = list(trigger.spec.addresses.get("nats") or fabric.host.defaults.get("nats", ()))
    headers = {"content-type": content_type}
    try:
        client = await nats.connect(servers, connect_timeout=5, max_reconnect_attempts=2)
        try:
            stream = client.jetstream()
            found = [await stream.publish(subject, data, headers=headers) for _ in range(count)]
            return [f"{ack.stream}/{ack.seq}" for ack in found]
        except NoStreamResponseError:  # core NATS, which confirms nothing
            for _ in range(count):
                await client.publish(subject, data, headers=headers)
            await client.flush()
            return []
        finally:
            await client.close()
    except Error as error:
        raise CannotPublish(f"{trigger.name}: {', '.join(servers)}: {error}") from error


async def _to_http(trigger: TriggerResource, fabric: Fabric, data: bytes, content_type: str, count: int) -> list[str]:
    path = str(getattr(trigger.spec, "path", None) or f"/{trigger.name}")
    if "{" in path:
        raise CannotPublish(
            f"{trigger.name}: its path has parameters; send a request to {fabric.http_address}{path} yourself"
        )
    method = (list(getattr(trigger.spec, "methods", ())) or ["POST"])[0]
    headers = {"content-type": content_type, "x-request-id": str(uuid.uuid4())}
    if host := getattr(trigger.spec, "host", None):
        headers["host"] = host
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session:
        for _ in range(count):
            async with session.request(method, fabric.http_address + path, data=data, headers=headers) as answer:
                if answer.status >= 400:
                    raise CannotPublish(f"{trigger.name}: answer {answer.status}: {(await answer.text())[:500]}")
    return []
