"""The clients that send the events of each trigger, one at a time, and know which the source has confirmed."""

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import aiohttp
import nats
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from servers.ledger import Lane
from soak.flow import Flow

SEND_SECONDS = 8.0
_CLOSE_SECONDS = 2.0
_TROUBLE_SECONDS = 0.5
TROUBLE = (KafkaError, NatsError, aiohttp.ClientError, OSError, TimeoutError)


class Sender(ABC):
    """Sends to one trigger. Hold `pause` to send nothing while the source is changed."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.pause = asyncio.Lock()

    async def send(self, does: str = "") -> str | None:
        """The id of the event that was sent; None if nobody knows whether it was."""
        id, key, data = self.flow.event(does)
        try:
            async with asyncio.timeout(SEND_SECONDS):
                lane = await self.put(id, key, json.dumps(data).encode())
        except TROUBLE:
            return None
        self.flow.confirm(id, lane)
        return id

    async def send_always(self, stopping: asyncio.Event, pause_seconds: float) -> None:
        while not stopping.is_set():
            async with self.pause:
                sent = await self.send()
            await asyncio.sleep(pause_seconds if sent else _TROUBLE_SECONDS)

    @abstractmethod
    async def put(self, id: str, key: str, data: bytes) -> Lane:
        """Returns the event's lane once the source has it."""

    @abstractmethod
    async def close(self) -> None:
        """Ends its connections."""


class KafkaSender(Sender):
    def __init__(self, flow: Flow, bootstrap: str) -> None:
        super().__init__(flow)
        self.bootstrap = bootstrap
        self.topic: str = flow.spec["topics"][0]
        self.partitions = 3
        self._producer: AIOKafkaProducer | None = None

    async def put(self, id: str, key: str, data: bytes) -> Lane:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self.bootstrap, enable_idempotence=True, request_timeout_ms=5000
            )
            self._producer = producer
            try:
                await producer.start()
            except BaseException:
                await self.close()
                raise
        try:
            found = await self._producer.send_and_wait(self.topic, data, key=key.encode())
        except BaseException:
            await self.close()  # after some errors, an idempotent producer never sends again
            raise
        return self.flow.incarnation, found.partition, key

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(*TROUBLE):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await producer.stop()

    async def create(self) -> None:
        """Returns once every client sees the topic."""
        async with Admin(self.bootstrap) as admin:
            async with asyncio.timeout(30):
                while self.topic not in await admin.list_topics():
                    await admin.create_topics([NewTopic(self.topic, self.partitions, 1)])
                    await asyncio.sleep(0.1)

    async def delete(self) -> None:
        """Deletes the topic. Call it with `pause` held."""
        await self.close()
        async with Admin(self.bootstrap) as admin:
            await admin.delete_topics([self.topic])
            async with asyncio.timeout(30):
                while self.topic in await admin.list_topics():
                    await asyncio.sleep(0.1)

    async def add_partitions(self, count: int) -> None:
        self.partitions += count
        async with Admin(self.bootstrap) as admin:
            await admin.create_partitions({self.topic: NewPartitions(self.partitions)})

    async def delete_records(self) -> None:
        """As retention does: deletes every record that there is."""
        assert self._producer is not None
        partitions = [TopicPartition(self.topic, number) for number in range(self.partitions)]
        async with Admin(self.bootstrap) as admin:
            await admin.delete_records({tp: RecordsToDelete(-1) for tp in partitions}, timeout_ms=5000)


class Admin:
    """An administrator's connection, while the context is open."""

    def __init__(self, bootstrap: str) -> None:
        self._client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        await self._client.start()
        return self._client

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.close()


class NATSSender(Sender):
    """`login`: the administrator's, which the trigger does not have."""

    def __init__(self, flow: Flow, url: str, login: dict[str, str]) -> None:
        super().__init__(flow)
        self.url, self.login = url, login
        self.prefix: str = flow.spec["subject"].removesuffix(".>")
        self._connection: Any = None

    async def connection(self) -> Any:
        if self._connection is None or self._connection.is_closed:
            self._connection = await nats.connect(
                self.url, **self.login, max_reconnect_attempts=-1, reconnect_time_wait=0.2, error_cb=_silently
            )
        return self._connection

    async def put(self, id: str, key: str, data: bytes) -> Lane:
        connection = await self.connection()
        subject = f"{self.prefix}.{key}"
        if self.flow.promise == "most":
            await connection.publish(subject, data)
            await connection.flush()
        else:
            await connection.jetstream().publish(subject, data)
        return self.flow.incarnation, key

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    # --- the stream

    async def create(self) -> None:
        await (await self.connection()).jetstream().add_stream(name=self.prefix, subjects=[f"{self.prefix}.>"])

    async def delete(self) -> None:
        jetstream = (await self.connection()).jetstream()
        await jetstream.delete_stream(self.prefix)

    async def purge(self) -> None:
        await (await self.connection()).jetstream().purge_stream(self.prefix)

    async def exists(self) -> bool:
        try:
            await (await self.connection()).jetstream().stream_info(self.prefix)
        except NotFoundError:
            return False
        return True


class HTTPSender(Sender):
    def __init__(self, flow: Flow, port: int) -> None:
        super().__init__(flow)
        self._address = f"http://127.0.0.1:{port}{flow.spec['path']}"

    async def put(self, id: str, key: str, data: bytes) -> Lane:
        headers = {"content-type": "application/json", "x-key": key}
        async with aiohttp.ClientSession() as session:
            async with session.post(self._address, data=data, headers=headers) as answer:
                if answer.status != 202:
                    raise aiohttp.ClientError(f"{answer.status}")
        return key

    async def close(self) -> None:
        """Each request has a connection of its own."""


class NoSender(Sender):
    """Of a trigger whose events come by themselves."""

    async def put(self, id: str, key: str, data: bytes) -> Lane:
        raise AssertionError("nobody sends to this trigger")

    async def close(self) -> None:
        return

    async def send_always(self, stopping: asyncio.Event, pause_seconds: float) -> None:
        return


async def _silently(error: Exception) -> None:
    """Connections come back by themselves."""


def senders_of(flows: Sequence[Flow], kafka: str, nats_url: str, login: dict[str, str], port: int) -> dict[str, Sender]:
    made: dict[str, Sender] = {}
    for flow in flows:
        match flow.kind:
            case "KafkaTrigger":
                made[flow.name] = KafkaSender(flow, kafka)
            case "NATSTrigger":
                made[flow.name] = NATSSender(flow, nats_url, login)
            case "HTTPTrigger":
                made[flow.name] = HTTPSender(flow, port)
            case _:
                made[flow.name] = NoSender(flow)
    return made
