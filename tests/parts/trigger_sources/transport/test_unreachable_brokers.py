"""A broker that cannot be reached is named, with the cause."""

import pytest
from aiokafka.errors import NodeNotReadyError
from servers.ports import free_port

from trigger_sources.kafka.client import admin_client, not_connected
from trigger_sources.nats.connection import connection_to
from trigger_sources.source import SourceError
from trigger_sources.testing import StandInContext

CONTEXT = StandInContext()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-broker.invalid"])
async def test_a_kafka_broker_that_does_not_answer_is_named_with_the_cause(host: str) -> None:
    port = free_port()
    with pytest.raises(SourceError) as found:
        async with admin_client([f"{host}:{port}"], None, CONTEXT):
            pass
    cause = "connection refused" if host == "127.0.0.1" else "the name cannot be resolved"
    assert (found.value.reason, str(found.value).startswith(f"{host}:{port}: {cause}")) == ("NotConnected", True)


async def test_a_kafka_broker_that_names_itself_differently_is_told_with_that_name() -> None:
    error = NodeNotReadyError("Attempt to send a request to node which is not ready (node id 1).")
    found = str(await not_connected(["kafka:9092"], None, error, ["kafka-internal.invalid:9092"]))
    assert "kafka:9092: the brokers name themselves differently" in found
    assert "kafka-internal.invalid:9092: the name cannot be resolved" in found


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-server.invalid"])
async def test_a_nats_server_that_does_not_answer_is_named_with_the_cause(host: str) -> None:
    port = free_port()
    with pytest.raises(SourceError) as found:
        await connection_to([f"nats://{host}:{port}"], None, CONTEXT)
    cause = "connection refused" if host == "127.0.0.1" else "the name cannot be resolved"
    assert f"{host}:{port}: {cause}" in str(found.value)
