"""Every built-in source and the example plugin keep the published source contract."""

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import nats
import pytest
from aiokafka import AIOKafkaProducer
from servers.kafka import apache_kafka, create_topic, shared_embedded_kafka, shared_kafka
from servers.nats import nats_server
from servers.stores import ComposedStore

from trigger_sources.cron import CronTrigger
from trigger_sources.dispatch.host import FabricStore
from trigger_sources.http import HTTPTrigger
from trigger_sources.http.gateway import Gateway
from trigger_sources.kafka import KafkaTrigger
from trigger_sources.nats import NATSTrigger
from trigger_sources.stores.jetstream import JetStreamStore
from trigger_sources.stores.sqlite import Store
from trigger_sources.testing import Origin, SourceContract


async def kafka_origin(bootstrap: str, **more: Any) -> Origin:
    """With a topic, a group and a topic of dead letters that no other test uses."""
    topic = f"t-{uuid4().hex[:8]}"
    await create_topic(bootstrap, topic, 2)

    async def produce(count: int) -> None:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            for _ in range(count):
                await producer.send_and_wait(topic, b"the same", key=b"k")

    place = {"brokers": [bootstrap], "topics": [topic], "group": f"g-{topic}"}
    delivery = {"deadLetter": {"name": f"{topic}-dead"}}
    trigger = KafkaTrigger.model_validate({"function": "f", **place, "delivery": delivery})
    return Origin(trigger, produce, patience_seconds=40, **more)


class TestKafkaTrigger(SourceContract):
    @pytest.fixture(autouse=True)
    def _kills(self, request: pytest.FixtureRequest) -> None:
        self.kills = "dropped_connection" in request.node.name

    @asynccontextmanager
    async def origin(self) -> AsyncIterator[Origin]:
        if not self.kills:
            yield await kafka_origin((await shared_kafka()).bootstrap)
            return
        async with apache_kafka() as broker:

            async def restart() -> None:
                await broker.kill()
                await broker.start()

            yield await kafka_origin(broker.bootstrap, interrupt=restart)


class TestKafkaTriggerOnTheEmbeddedBroker(SourceContract):
    @asynccontextmanager
    async def origin(self) -> AsyncIterator[Origin]:
        yield await kafka_origin(await shared_embedded_kafka())


class TestNATSTrigger(SourceContract):
    @asynccontextmanager
    async def origin(self) -> AsyncIterator[Origin]:
        async with nats_server() as server:

            async def produce(count: int) -> None:
                connection = await nats.connect(server.url)
                for _ in range(count):
                    await connection.jetstream().publish("orders", b"the same")
                await connection.close()

            async def restart() -> None:
                await server.kill()
                await server.start()

            trigger = NATSTrigger.model_validate(
                {
                    "function": "f",
                    "servers": [server.url],
                    "subject": "orders",
                    "createStream": True,
                    "ackWaitSeconds": 2,
                }
            )
            yield Origin(trigger, produce, interrupt=restart, deadline_seconds=2)


class TestCronTrigger(SourceContract):
    @asynccontextmanager
    async def origin(self) -> AsyncIterator[Origin]:
        async def produce(count: int) -> None:
            """Does nothing: the clock creates the events."""

        trigger = CronTrigger.model_validate(
            {"function": "f", "schedule": "* * * * * *", "concurrencyPolicy": "Allow", "ordering": "none"}
        )
        yield Origin(trigger, produce)


class TestHTTPTriggerThatAccepts(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @asynccontextmanager
    async def origin(self) -> AsyncIterator[Origin]:
        async with Store.open(self.folder / "inbox.sqlite") as store, http_origin(store) as origin:
            yield origin


class TestHTTPTriggerThatAcceptsOnJetStream(SourceContract):
    @asynccontextmanager
    async def origin(self) -> AsyncIterator[Origin]:
        async with (
            nats_server() as server,
            JetStreamStore.open([server.url], replica="replica-0", ack_wait_seconds=2) as events,
        ):

            async def restart() -> None:
                await server.kill()
                await server.start()

            async with http_origin(ComposedStore(events), interrupt=restart, deadline_seconds=2) as origin:
                yield origin


@asynccontextmanager
async def http_origin(store: FabricStore, **more: Any) -> AsyncIterator[Origin]:
    gateway = Gateway()
    await gateway.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as client:

            async def produce(count: int) -> None:
                for _ in range(count):
                    async with asyncio.timeout(10):
                        while not await accepted():
                            await asyncio.sleep(0.01)

            async def accepted() -> bool:
                async with client.post("/orders", data=b"the same") as answer:
                    return answer.status == 202

            trigger = HTTPTrigger.model_validate({"function": "f", "path": "/orders", "answer": "accepted"})
            yield Origin(trigger, produce, gateway=gateway, store=store, **more)
    finally:
        await gateway.close(1)


class TestThePlugin(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "in"
        self.folder.mkdir()

    @asynccontextmanager
    async def origin(self) -> AsyncIterator[Origin]:
        made = 0

        async def produce(count: int) -> None:
            nonlocal made
            for _ in range(count):
                made += 1
                (self.folder / f"{made}.txt").write_bytes(b"the same")

        yield Origin(_folder_trigger().model_validate({"function": "f", "folder": str(self.folder)}), produce)


def _folder_trigger() -> Any:
    file = Path(__file__).resolve().parents[4] / "examples" / "plugin" / "folder_source.py"
    spec = importlib.util.spec_from_file_location("folder_source", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["folder_source"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FolderTrigger
