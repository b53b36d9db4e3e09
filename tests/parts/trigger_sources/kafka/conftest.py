"""The broker that these tests share, and a topic for each test."""

from uuid import uuid4

import pytest
from servers.kafka import Kafka, create_topic, shared_kafka


@pytest.fixture
async def kafka() -> Kafka:
    return await shared_kafka()


@pytest.fixture
async def topic(kafka: Kafka) -> str:
    name = f"t-{uuid4().hex[:8]}"
    await create_topic(kafka.bootstrap, name, 1)
    return name
