"""The NATS server of the chart, with the configuration that the chart renders."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error
from nats.js.errors import APIError, NotFoundError
from servers.helm import rendered
from servers.nats import NATSServer, nats_server
from servers.ports import free_port

PASSWORD = "oRtYcqWbNsKdLfGhPmZx"
SMALL = {"store": {"embedded": {"events": {"maxFileSize": "1Mi"}}}}
CLOSED = {"store": {"embedded": {"events": {"enabled": False}}}}


@asynccontextmanager
async def store(values: dict[str, Any]) -> AsyncIterator[NATSServer]:
    objects = {(found["kind"], found["metadata"]["name"]): found for found in await rendered(values)}
    text: str = objects["ConfigMap", "kubeirq-store"]["data"]["nats.conf"]
    assert "http: 0.0.0.0:8222" in text
    assert "store_dir: /data" in text
    assert "sync_interval: always" in text
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORE_PASSWORD", PASSWORD)
        here = text.replace("0.0.0.0:8222", f"127.0.0.1:{free_port()}").replace("/data", folder)
        async with nats_server(config=here, jetstream=False) as found:
            yield found


async def quiet(_: Exception) -> None: ...


@asynccontextmanager
async def client(
    server: NATSServer, user: str = "", on_error: Callable[[Exception], Awaitable[None]] | None = None
) -> AsyncIterator[Client]:
    url = server.url.replace("//", f"//{user}")
    found = await nats.connect(url, error_cb=on_error or quiet, reconnect_time_wait=0.1)
    try:
        yield found
    finally:
        await found.close()


async def is_refused(server: NATSServer, user: str = "") -> None:
    found = Client()
    try:
        with pytest.raises(Error, match=r"[Aa]uthorization"):
            await found.connect(server.url.replace("//", f"//{user}"), error_cb=quiet, allow_reconnect=False)
    finally:
        await found.close()


FABRIC = f"fabric:{PASSWORD}@"


async def test_only_the_fabrics_account_can_read_its_data() -> None:
    async with store({}) as server, client(server, FABRIC) as fabric, client(server) as anyone:
        await fabric.jetstream().add_stream(name="kept", subjects=["kept.>"])
        await fabric.jetstream().publish("kept.a", b"1")
        with pytest.raises(NotFoundError):
            await anyone.jetstream().stream_info("kept")
        await anyone.jetstream().add_stream(name="kept", subjects=["kept.>"])  # another of the same name
        await anyone.jetstream().publish("kept.a", b"2")
        assert (await fabric.jetstream().get_msg("kept", 1)).data == b"1"
        for user in ("fabric:wrong@", "fabric:@", "fabric@"):
            await is_refused(server, user)


TRIGGERS = f"triggers:{PASSWORD}@"
CHANGES = {
    "STREAM.DELETE.orders": {},
    "STREAM.PURGE.orders": {},
    "STREAM.UPDATE.orders": {"name": "orders", "subjects": ["orders.>"], "max_msgs": 1},
    "STREAM.MSG.DELETE.orders": {"seq": 1},
    "CONSUMER.DELETE.orders.trigger": {},
    "CONSUMER.CREATE.orders": {"stream_name": "orders", "config": {"name": "trigger", "max_deliver": 1}},
    "CONSUMER.CREATE.orders.trigger": {"stream_name": "orders", "config": {"name": "trigger", "max_deliver": 1}},
    "CONSUMER.DURABLE.CREATE.orders.trigger": {
        "stream_name": "orders",
        "config": {"durable_name": "trigger", "max_deliver": 1},
    },
    "CONSUMER.PAUSE.orders.trigger": {"pause_until": "2100-01-01T00:00:00Z"},
    "CONSUMER.MSG.NEXT.orders.trigger": {"batch": 1, "no_wait": True},
}


async def test_a_client_without_a_login_publishes_and_reads_and_changes_nothing_of_a_trigger() -> None:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error).lower())

    async with store({}) as server, client(server, TRIGGERS) as triggers:
        stream = triggers.jetstream()
        await stream.add_stream(name="orders", subjects=["orders.>"])
        await stream.add_consumer("orders", durable_name="trigger", ack_policy="explicit", max_deliver=7)
        async with client(server, on_error=note) as anyone:
            seen = await anyone.subscribe("orders.>")
            await anyone.jetstream().publish("orders.a", b"1")
            assert (await seen.next_msg(5)).data == b"1"
            assert (await anyone.jetstream().get_msg("orders", 1)).data == b"1"
            for call, arguments in CHANGES.items():
                await anyone.publish(f"$JS.API.{call}", json.dumps(arguments).encode(), reply="_INBOX.x")
            (message,) = await (await stream.pull_subscribe_bind("trigger", "orders")).fetch(1)
            await anyone.publish(message.reply, b"+ACK")
            await anyone.flush()
            async with asyncio.timeout(10):
                while len(refused) < len(CHANGES) + 1:
                    await asyncio.sleep(0.01)
        for call in CHANGES:
            assert any(f'$js.api.{call.lower()}"' in text for text in refused), call
        found = await stream.consumer_info("orders", "trigger")
        assert (found.config.max_deliver, found.num_ack_pending) == (7, 1)
        assert (await stream.stream_info("orders")).state.messages == 1
        await message.ack_sync()
        await stream.purge_stream("orders")
        await stream.delete_stream("orders")
        await is_refused(server, "triggers:wrong@")


async def test_triggers_log_in_to_the_account_of_events() -> None:
    (deployment,) = [
        found
        for found in await rendered({})
        if (found["kind"], found["metadata"]["name"]) == ("Deployment", "kubeirq-nats")
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    names = [variable["name"] for variable in container["env"]]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert values["KUBEIRQ_NATS_SERVERS"] == "nats://triggers:$(KUBEIRQ_STORE_PASSWORD)@kubeirq-store:4222"
    assert names.index("KUBEIRQ_STORE_PASSWORD") < names.index("KUBEIRQ_NATS_SERVERS"), "it refers to it"


async def test_events_cannot_fill_the_volume() -> None:
    async with store(SMALL) as server, client(server, FABRIC) as fabric, client(server) as anyone:
        stream = anyone.jetstream()
        await stream.add_stream(name="events", subjects=["events"])
        with pytest.raises(APIError, match="resource limits exceeded for account"):
            for _ in range(3):
                await stream.publish("events", b"x" * 600_000)
        await fabric.jetstream().add_stream(name="kept", subjects=["kept"])
        await fabric.jetstream().publish("kept", b"x" * 600_000)


async def test_a_store_with_a_password_rejects_clients_without_it() -> None:
    async with store(CLOSED) as server, client(server, FABRIC) as fabric:
        await fabric.jetstream().add_stream(name="kept", subjects=["kept"])
        await is_refused(server)


async def test_a_client_reconnects_with_its_original_address_and_login() -> None:
    async with store({}) as server, client(server, FABRIC) as fabric:
        await fabric.jetstream().add_stream(name="kept", subjects=["kept"])
        assert len(fabric.servers) == 1  # no address from the server: a pod's address does not last
        await server.kill()
        await server.start()
        async with asyncio.timeout(20):
            while not fabric.is_connected:
                await asyncio.sleep(0.05)
        assert (await fabric.jetstream().publish("kept", b"1")).seq == 1
