"""Publishes an event to the source of a trigger, as any client of that source would."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

import aiohttp

from kubeirq.message import Message
from kubeirq.on_machine.fabric import Fabric
from trigger_sources.dispatch.flows import TriggerResource
from trigger_sources.transport.diagnosis import reasons_of

_SECONDS = 60
_STREAM_SECONDS = 10.0  # for a trigger that starts, until it has created its stream


class CannotPublish(Exception):
    """The trigger's source accepts no events from outside, or does not answer. The text says what to do instead."""


async def publish(trigger: TriggerResource, fabric: Fabric, message: Message, count: int) -> list[str]:
    """Publishes, and returns the positions if the source gives any. Raises CannotPublish, OSError."""
    fields = type(trigger.spec).model_fields
    if "topics" in fields:
        return await _to_kafka(trigger, fabric, message, count)
    if "subject" in fields:
        return await _to_nats(trigger, fabric, message, count)
    if "methods" in fields:
        return await _to_http(trigger, fabric, message, count)
    way_out = f"`kubeirq fire {trigger.name}` runs it now" if "schedule" in fields else "use `kubeirq call`"
    raise CannotPublish(f"{trigger.kind} {trigger.name}: its source accepts no events; {way_out}")


def _headers_of(message: Message, prefix: str) -> dict[str, str]:
    """The message's headers; those of a CloudEvent only if it has attributes: else it is a plain message."""
    event = message.event_headers("publish", prefix) if message.attributes else {}
    return {"content-type": message.content_type, **event, **message.headers}


async def _to_kafka(trigger: TriggerResource, fabric: Fabric, message: Message, count: int) -> list[str]:
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaConnectionError, KafkaError

    topics = getattr(trigger.spec, "topics", None)
    if not topics:
        raise CannotPublish(f"{trigger.name}: it has a topic pattern, not a topic; publish with your own client")
    if getattr(trigger.spec, "security", None):
        raise CannotPublish(f"{trigger.name}: its brokers need credentials; publish with your own client")
    brokers = list(trigger.spec.addresses.get("kafka") or fabric.host.defaults.get("kafka", ()))
    producer: Any = AIOKafkaProducer(bootstrap_servers=brokers, acks="all")
    headers = [(name, value.encode()) for name, value in _headers_of(message, "ce_").items()]
    key = None if message.key is None else message.key.encode()
    try:
        async with asyncio.timeout(_SECONDS):
            await producer.start()
            sent = [await producer.send(topics[0], message.body, key=key, headers=headers) for _ in range(count)]
            records = await asyncio.gather(*sent)
    except KafkaConnectionError as error:
        raise CannotPublish(f"{trigger.name}: {await reasons_of(brokers, 9092, 'Kafka')}") from error
    except KafkaError as error:
        raise CannotPublish(f"{trigger.name}: {', '.join(brokers)}: {error}{_more(fabric, brokers)}") from error
    except TimeoutError as error:
        text = f"{trigger.name}: {', '.join(brokers)}: no answer within {_SECONDS} s{_more(fabric, brokers)}"
        raise CannotPublish(text) from error
    finally:
        await producer.stop()
    return [f"{record.topic}/{record.partition}/{record.offset}" for record in records]


def _more(fabric: Fabric, brokers: Sequence[str]) -> str:
    """Where the embedded broker says more: its own errors have no reason."""
    own = fabric.brokers.get("kafka")
    if own is None or list(brokers) != [own.address]:
        return ""
    return f"; it is the embedded broker, and {fabric.state / 'logs' / 'kafka.log'} says more (is the disk full?)"


async def _to_nats(trigger: TriggerResource, fabric: Fabric, message: Message, count: int) -> list[str]:
    import nats
    from nats.errors import Error, NoServersError
    from nats.js.errors import NoStreamResponseError

    from trigger_sources.nats.subjects import checked_subject, covers

    pattern = str(getattr(trigger.spec, "subject", ""))
    if message.subject is None and not {"*", ">"}.isdisjoint(pattern.split(".")):
        raise CannotPublish(
            f"{trigger.name}: its subject {pattern!r} is a pattern; name one that matches with --subject"
        )
    try:
        subject = checked_subject(message.subject or pattern, wildcards=False)
    except ValueError as error:
        raise CannotPublish(f"{trigger.name}: --subject: {error}") from error
    if not covers(pattern, subject):
        raise CannotPublish(f"{trigger.name}: --subject: {subject!r} does not match its subject {pattern!r}")
    if getattr(trigger.spec, "security", None):
        raise CannotPublish(f"{trigger.name}: its servers need credentials; publish with your own client")
    servers = list(trigger.spec.addresses.get("nats") or fabric.host.defaults.get("nats", ()))
    headers, data = _headers_of(message, "ce-"), message.body
    try:
        client = await nats.connect(servers, connect_timeout=5, max_reconnect_attempts=2, error_cb=_ignored)
        try:
            if getattr(trigger.spec, "mode", "") == "core":  # nothing confirms these
                for _ in range(count):
                    await client.publish(subject, data, headers=headers)
                await client.flush()
                return []
            stream, found = client.jetstream(), list[str]()
            deadline = time.monotonic() + _STREAM_SECONDS
            while len(found) < count:
                try:
                    ack = await stream.publish(subject, data, headers=headers)
                except NoStreamResponseError:
                    if time.monotonic() > deadline:
                        raise CannotPublish(
                            f"{trigger.name}: no stream has the subject {subject!r}, so that nobody would get the"
                            f" message; `kubeirq describe {trigger.name}` says more"
                        ) from None
                    await asyncio.sleep(0.1)
                except TimeoutError:  # a subscriber has the message, and no stream
                    raise CannotPublish(
                        f"{trigger.name}: no stream confirmed the message on {subject!r}; `kubeirq describe"
                        f" {trigger.name}` says more"
                    ) from None
                else:
                    found.append(f"{ack.stream}/{ack.seq}")
            return found
        finally:
            await client.close()
    except (NoServersError, OSError) as error:
        raise CannotPublish(f"{trigger.name}: {await reasons_of(servers, 4222, 'NATS')}") from error
    except Error as error:
        raise CannotPublish(f"{trigger.name}: {', '.join(servers)}: {error}") from error


async def _to_http(trigger: TriggerResource, fabric: Fabric, message: Message, count: int) -> list[str]:
    path = message.path or str(getattr(trigger.spec, "path", None) or f"/{trigger.name}")
    if not path.startswith("/"):
        raise CannotPublish(f"{trigger.name}: --path: {path!r} does not begin with /")
    if "{" in path:
        raise CannotPublish(
            f"{trigger.name}: its path {path!r} has parameters; name one with --path, or send a request to"
            f" {fabric.http_address} yourself"
        )
    method = (list(getattr(trigger.spec, "methods", ())) or ["POST"])[0]
    headers = {"x-request-id": str(uuid.uuid4()), **_headers_of(message, "ce-")}
    if host := getattr(trigger.spec, "host", None):
        headers["host"] = host
    url = fabric.http_address + path
    began = time.time()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session:
        for _ in range(count):
            async with session.request(method, url, data=message.body, headers=headers) as answer:
                if answer.status >= 400:
                    reason = _reason_of_failure(fabric, trigger, began) or (await answer.text())[:500].strip()
                    raise CannotPublish(f"{trigger.name}: answer {answer.status}: {reason}")
    return []


def _reason_of_failure(fabric: Fabric, trigger: TriggerResource, began: float) -> str:
    """The trigger's last error since then: the gateway does not tell a caller why the function failed."""
    statuses = [running.flow.status() for running in fabric.running_flows.of(trigger.uid)]
    return next((found.last_error for found in statuses if (found.last_error_at or 0) >= began), "")


async def _ignored(error: Exception) -> None:
    """The client logs a traceback for each attempt to connect, unless somebody takes the error."""
