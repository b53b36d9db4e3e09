"""The shared Kafka producer with changed credentials, on a real Apache Kafka with logins."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from servers.kafka import SASL_PASSWORD, SASL_USER, Kafka, apache_kafka, create_topic

from trigger_sources.dispatch.host import Shared
from trigger_sources.events import Event
from trigger_sources.kafka.reply import KafkaReply
from trigger_sources.kafka.security import Security, client_arguments
from trigger_sources.publisher import Publisher
from trigger_sources.testing import StandInContext

PASSWORD = ("kafka", "password")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kafka() -> AsyncIterator[Kafka]:
    async with apache_kafka(sasl="PLAIN") as found:
        await create_topic(found.bootstrap, "replies", 1)
        yield found


class Flow(StandInContext):
    """One flow's context, with connections that it shares with others."""

    def __init__(self, name: str, shared: Shared, secrets: dict[tuple[str, str], str]) -> None:
        super().__init__(secrets=secrets)
        self.name, self.connections = name, shared

    async def shared(self, key, open, close):  # type: ignore[no-untyped-def]
        return await self.connections.get(self.name, key, open, close)


def reply(kafka: Kafka) -> KafkaReply:
    sasl = {"mechanism": "PLAIN", "username": SASL_USER, "password": {"name": PASSWORD[0], "key": PASSWORD[1]}}
    return KafkaReply.model_validate(
        {"topic": "replies", "brokers": [kafka.sasl_bootstrap], "security": {"sasl": sasl}}
    )


async def change_password(kafka: Kafka, before: str, after: str) -> None:
    await kafka.stop()
    properties = kafka.folder / "server.properties"
    properties.write_text(properties.read_text().replace(f'="{before}"', f'="{after}"'))
    await kafka.start()


async def published(publisher: Publisher) -> bool:
    try:
        async with asyncio.timeout(5):
            await publisher.publish(Event("1", "/s", "t", b"1"), b"k")
    except Exception:
        return False
    return True


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(180)
async def test_a_flow_that_starts_anew_gets_the_changed_password_while_others_hold_the_old_producer(
    kafka: Kafka,
) -> None:
    shared, secrets = Shared(), {PASSWORD: SASL_PASSWORD}
    flows = [Flow(name, shared, secrets) for name in ("a", "b")]
    old, other = [await reply(kafka).open(flow, {}) for flow in flows]
    assert await published(old)
    assert await published(other)
    await change_password(kafka, SASL_PASSWORD, "changed")
    assert not await published(old)
    secrets[PASSWORD] = "changed"
    await shared.release("b")
    assert await published(await reply(kafka).open(flows[1], {}))
    await change_password(kafka, "changed", SASL_PASSWORD)
    async with asyncio.timeout(60):
        while not await published(old):  # a refused login ends no producer
            await asyncio.sleep(0.1)
    for flow in flows:
        await shared.release(flow.name)


async def test_a_missing_token_is_an_error_after_which_the_client_connects_again() -> None:
    """The client's background tasks end for good after any other exception."""
    security = Security.model_validate({"sasl": {"mechanism": "OAUTHBEARER", "token": {"name": "s", "key": "k"}}})
    secrets = {("s", "k"): "first"}
    arguments = await client_arguments(security, StandInContext(secrets=secrets))
    provider = arguments["sasl_oauth_token_provider"]
    assert await provider.token() == "first"
    del secrets["s", "k"]
    with pytest.raises(OSError, match="'s' has no key 'k'"):
        await provider.token()
