"""A NATS connection comes back from anything: errors of the server, refused logins, and changed secrets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from servers.nats import NATSServer, nats_server
from servers.relay import relay

from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.dispatch.flows import Flows, TriggerResource
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.events import Event, binary_headers
from trigger_sources.http.gateway import Gateway
from trigger_sources.nats import NATSTrigger, connection
from trigger_sources.nats.reply import NATSReply
from trigger_sources.source import SourceError
from trigger_sources.spec import SecretRef
from trigger_sources.stores.jetstream import JetStreamStore
from trigger_sources.stores.sqlite import Store
from trigger_sources.testing import StandInContext

DONE = Outcome("delivered")
TOKEN = {"security": {"token": {"name": "nats", "key": "token"}}}


def accepts(token: str) -> str:
    return f'authorization {{ token: "{token}" }}'


class Consumer:
    """A running trigger, with everything that it delivers."""

    def __init__(self, url: str, context: StandInContext, **spec: Any) -> None:
        self.context = context
        self.spec = NATSTrigger.model_validate(
            {"function": "f", "servers": [url], "subject": "orders", "createStream": True, **spec}
        )
        self.deliveries: list[Delivery] = []

    @property
    def data(self) -> list[bytes | None]:
        return [delivery.event.data for delivery in self.deliveries]

    @property
    def reason(self) -> str:
        connected, reason, _ = self.context.reports[-1]
        return "" if connected else reason

    @property
    def losses(self) -> list[str]:
        """The reported reasons for which the connection was lost."""
        return [message for connected, _, message in self.context.reports if not connected]

    async def run(self) -> None:
        async for deliveries in self.spec.deliveries(self.context):
            self.deliveries += deliveries


@asynccontextmanager
async def consuming(url: str, **spec: Any) -> AsyncIterator[Consumer]:
    secrets = {("nats", "token"): "right"}
    found = Consumer(url, StandInContext(secrets=secrets), **spec)
    await found.spec.prepare(found.context)
    running = asyncio.create_task(found.run())
    try:
        await until(lambda: bool(found.context.reports))
        yield found
        assert not running.done(), "the source goes on; it is not started anew"
    finally:
        found.context.stopping.set()
        await asyncio.gather(running, return_exceptions=True)
        await found.context.close()


async def until(happened: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.01)


async def send(server: NATSServer, data: bytes) -> None:
    connection = await nats.connect(server.url)
    await connection.publish("orders", data)
    await connection.close()


async def publish(server: NATSServer, data: bytes, token: str = "right", subject: str = "orders") -> None:
    connection = await nats.connect(server.url, token=token)
    await connection.publish(subject, data)
    await connection.close()


ERRORS = (
    "Authorization Violation",
    "User Authentication Expired",
    "User Authentication Revoked",
    "Account Authentication Expired",
    "maximum connections exceeded",
    "maximum account active connections exceeded",
    "Connection Throttling Is Active",
    "Maximum Payload Violation",
    "Unknown Protocol Operation",
)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("mode", ["jetstream", "core"])
async def test_after_any_error_of_the_server_messages_come_again(error: str, mode: str) -> None:
    async with nats_server(config=accepts("right")) as server, relay(server.port) as way:
        async with consuming(f"nats://127.0.0.1:{way.port}", mode=mode, **TOKEN) as consumer:
            await publish(server, b"1")
            await until(lambda: consumer.data == [b"1"])
            assert way.say(f"-ERR '{error}'\r\n".encode()) == 1
            await until(lambda: len(consumer.losses) > 0 and not consumer.reason)
            assert any(error.lower()[:6] in message.lower() for message in consumer.losses), consumer.losses
            await consumer.deliveries[0].settle(DONE)
            await publish(server, b"2")
            await until(lambda: consumer.data == [b"1", b"2"])
            await consumer.deliveries[1].settle(DONE)


async def test_a_permissions_violation_changes_no_connection() -> None:
    async with nats_server(config=accepts("right")) as server, relay(server.port) as way:
        async with consuming(f"nats://127.0.0.1:{way.port}", **TOKEN) as consumer:
            way.say(b"-ERR 'Permissions Violation for Publish to \"authorization\"'\r\n")
            await publish(server, b"1")
            await until(lambda: consumer.data == [b"1"])
            assert not consumer.losses
            assert way.connections == 1


RIGHTS = """
accounts {{ A {{ jetstream: enabled, users: [
    {{user: admin, password: admin}}
    {{user: me, password: right, permissions: {{publish: {{allow: {publish}}}, subscribe: {{allow: {subscribe}}}}}}}
] }} }}
no_auth_user: admin
"""
ALL = ["$JS.API.>", "$JS.ACK.>", "_INBOX.>"]


def rights(publish: list[str], subscribe: list[str]) -> str:
    return RIGHTS.format(publish=json.dumps(publish), subscribe=json.dumps(subscribe))


LOGIN = {"security": {"username": "me", "password": {"name": "nats", "key": "token"}}}


@pytest.mark.parametrize(
    ("publish", "missing"),
    [
        (["$JS.API.>", "_INBOX.>"], "$JS.ACK.>"),
        (
            ["$JS.API.STREAM.>", "$JS.API.CONSUMER.INFO.>", "$JS.API.CONSUMER.CREATE.>", "$JS.ACK.>"],
            "$JS.API.CONSUMER.MSG.NEXT.ORDERS.kubeirq-default-trigger-function",
        ),
    ],
)
async def test_a_missing_right_of_a_consumer_is_reported_until_it_is_given(publish: list[str], missing: str) -> None:
    async with nats_server(config=rights(publish, ["_INBOX.>"])) as server:
        async with consuming(server.url, ackWaitSeconds=1, **LOGIN) as consumer:
            await send(server, b"1")
            if missing == "$JS.ACK.>":
                await until(lambda: consumer.data == [b"1"])
                await consumer.deliveries[0].settle(DONE)
            await until(lambda: consumer.reason == "Unauthorized")
            assert missing in consumer.losses[-1]
            await server.reload(rights(ALL, ["_INBOX.>"]))
            async with asyncio.timeout(30):
                while consumer.reason:
                    await consumer.spec.lag(consumer.context)
                    await asyncio.sleep(0.1)
            await until(lambda: b"1" in consumer.data)


async def test_a_core_subject_that_the_identity_may_not_read_is_not_ready() -> None:
    async with nats_server(config=rights(ALL, ["_INBOX.>"])) as server:
        context = StandInContext(secrets={("nats", "token"): "right"})
        spec = {"function": "f", "servers": [server.url], "subject": "orders", "mode": "core", **LOGIN}
        generator = NATSTrigger.model_validate(spec).deliveries(context)
        with pytest.raises(SourceError, match='subscription to "orders"') as caught:
            await anext(aiter(generator))
        assert caught.value.reason == "Unauthorized"
        assert not context.reports
        await context.close()


async def test_a_reply_to_a_subject_that_the_identity_may_not_use_is_not_published() -> None:
    async with nats_server(config=rights(ALL, ["_INBOX.>"])) as server:
        context = StandInContext(secrets={("nats", "token"): "right"})
        target = NATSReply.model_validate({"subject": "Answers", "servers": [server.url], **LOGIN})
        publisher = await target.open(context, {})
        with pytest.raises(OSError, match="permissions violation"):
            await publisher.publish(Event("1", "/s", "t", b"x"), None)
        await server.reload(rights([*ALL, "Answers"], ["_INBOX.>"]))
        await publisher.publish(Event("1", "/s", "t", b"x"), None)
        await context.close()


@pytest.mark.parametrize("mode", ["jetstream", "core"])
async def test_a_wrong_token_of_the_server_for_a_moment_ends_nothing(mode: str) -> None:
    async with nats_server(config=accepts("right")) as server, consuming(server.url, mode=mode, **TOKEN) as consumer:
        await publish(server, b"1")
        await until(lambda: consumer.data == [b"1"])
        await server.reload(accepts("wrong"))
        await until(lambda: consumer.reason == "Unauthorized")
        await server.reload(accepts("right"))
        await until(lambda: not consumer.reason)
        await consumer.deliveries[0].settle(DONE)
        await publish(server, b"2")
        await until(lambda: consumer.data == [b"1", b"2"])


@pytest.mark.parametrize("mode", ["jetstream", "core"])
@pytest.mark.parametrize(
    "strange",
    [
        b"PUB orders.\xff\xfe 1\r\n1\r\n",
        b"HPUB orders.a 3 4\r\nabc1\r\n",
        b"HPUB orders.a 14 15\r\nNATS/1.0 \xff\r\n\r\n1\r\n",
    ],
    ids=["subject", "headers", "status"],
)
async def test_a_message_that_the_client_cannot_read_stops_no_connection(strange: bytes, mode: str) -> None:
    async with nats_server() as server, consuming(server.url, mode=mode, subject="orders.*") as consumer:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + strange + b"PUB orders.b 1\r\n2\r\n")
        await until(lambda: consumer.data == [b"1", b"2"])
        for delivery in consumer.deliveries:
            assert binary_headers(delivery.event)
            await delivery.settle(DONE)
        assert not consumer.losses
        writer.close()


async def test_a_client_that_stops_reading_is_replaced() -> None:
    async with nats_server() as server, consuming(server.url, ackWaitSeconds=1) as consumer:
        connection = await consumer.spec.connection(consumer.context)
        connection.client._reading_task.cancel()
        await publish(server, b"1")
        await until(lambda: consumer.data == [b"1"])


async def test_an_acknowledgement_while_the_connection_is_lost_is_not_lost() -> None:
    async with nats_server(config=accepts("right")) as server:
        async with consuming(server.url, ackWaitSeconds=1, **TOKEN) as consumer:
            await publish(server, b"1")
            await until(lambda: consumer.data == [b"1"])
            await server.reload(accepts("wrong"))
            await until(lambda: consumer.reason == "Unauthorized")
            await consumer.deliveries[0].settle(DONE)
            await server.reload(accepts("right"))
            await until(lambda: not consumer.reason)
            connection = await nats.connect(server.url, token="right")
            jetstream = connection.jetstream()
            name = consumer.spec.name_in(consumer.context)
            async with asyncio.timeout(20):
                while (await jetstream.consumer_info("ORDERS", name)).num_ack_pending:
                    await asyncio.sleep(0.02)
            await connection.close()
            assert consumer.data == [b"1"]


@pytest.mark.parametrize("restarted", [False, True])
async def test_the_credentials_are_read_again_for_each_login(restarted: bool) -> None:
    async with nats_server(config=accepts("right")) as server, consuming(server.url, **TOKEN) as consumer:
        if restarted:
            await server.stop()
            (server.folder / "server.conf").write_text(accepts("new"))
            await server.start()
        else:
            await server.reload(accepts("new"))
        await until(lambda: consumer.reason == "Unauthorized")
        secrets: Any = consumer.context.secrets
        del secrets["nats", "token"]
        await until(lambda: consumer.reason == "SecretMissing")
        secrets["nats", "token"] = "new"
        await until(lambda: not consumer.reason)
        await publish(server, b"1", "new")
        await until(lambda: consumer.data == [b"1"])


async def test_a_connection_closes_at_any_moment_of_a_login() -> None:
    async with nats_server(config=accepts("right")) as server:
        for delay in range(16):
            context = StandInContext(secrets={("nats", "token"): "right"})
            spec = NATSTrigger.model_validate({"function": "f", "servers": [server.url], "subject": "s", **TOKEN})
            connection = await spec.connection(context)
            lost = asyncio.Event()
            connection.listeners.add(lambda connected, lost=lost: lost.set())
            await server.reload(accepts("wrong"))
            async with asyncio.timeout(20):
                await lost.wait()
            await asyncio.sleep(delay * 0.02)  # the moments are what this test varies
            async with asyncio.timeout(10):
                await context.close()
            await server.reload(accepts("right"))
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_the_store_comes_back_from_an_error_of_the_server() -> None:
    async with nats_server() as server, relay(server.port) as way:
        async with JetStreamStore.open([f"nats://127.0.0.1:{way.port}"], replica="r", ack_wait_seconds=1) as store:
            inbox = store.inbox("u")
            await inbox.prepare()
            await inbox.append_all([b"1", b"2"])
            first, second = await taken(inbox, 2)
            way.say(b"-ERR 'User Authentication Expired'\r\n")
            await first.settle(DONE)
            async with asyncio.timeout(20):
                while not await appended(inbox, b"3"):
                    await asyncio.sleep(0.01)
            await second.settle(DONE)
            records = []
            async with asyncio.timeout(20):
                while await inbox.count():  # an append that failed may have kept the record
                    for kept in await inbox.take(5, 0.1):
                        records.append(kept.record)
                        await kept.settle(DONE)
            assert set(records) == {b"3"}


async def appended(inbox: Any, record: bytes) -> bool:
    try:
        await inbox.append_all([record])
    except SourceError as error:
        if error.reason != "StoreUnavailable":
            raise
        return False
    return True


async def taken(inbox: Any, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await inbox.take(count - len(found), 1)
    return found


@pytest.mark.parametrize("first", ["server", "secret"])
async def test_triggers_that_restart_a_few_at_a_time_all_get_the_changed_secret(first: str, tmp_path: Path) -> None:
    count = 6
    text = "right"

    def secret(namespace: str, reference: SecretRef) -> str:
        return text

    def wanted(number: int, version: str) -> dict[tuple[str, str], TriggerResource]:
        spec = NATSTrigger.model_validate({"function": "f", "servers": [server.url], "subject": f"s.{number}", **TOKEN})
        uid = f"u{number}"
        return {(uid, "f"): TriggerResource("NATSTrigger", "default", uid, spec, uid, secrets=version)}

    def ready() -> int:
        return sum(running.flow.status().ready for running in flows.running.values())

    async with nats_server(config=accepts("right")) as server, Store.open(tmp_path / "state.db") as store:
        connection = await nats.connect(server.url, token="right")
        await connection.jetstream().add_stream(name="S", subjects=["s.>"])
        await connection.close()
        host = LocalHost(replica="r", store=store, gateway=Gateway(), secrets=secret, defaults={})
        gate = Gate("f", "http://127.0.0.1:9/")
        flows = Flows(host, lambda namespace, name: gate)
        workers = asyncio.Semaphore(4)  # as many as the controller has

        async def apply(number: int, version: str) -> None:
            async with workers:
                await flows.apply(wanted(number, version), 1, uid=f"u{number}")

        async def change_server() -> None:
            await server.reload(accepts("new"))

        try:
            await asyncio.gather(*(apply(number, "1") for number in range(count)))
            await until(lambda: ready() == count)
            if first == "server":
                await change_server()
                await until(lambda: ready() == 0)
            text = "new"
            await asyncio.gather(*(apply(number, "2") for number in range(count)))
            if first == "secret":
                await change_server()
            await until(lambda: ready() == count, 25)
        finally:
            await flows.stop(0)
            await gate.aclose()


async def test_a_client_that_does_not_close_in_time_keeps_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """It closes its socket last, and may not come to that on a busy machine."""
    monkeypatch.setattr(connection, "_CLOSE_SECONDS", 0.1)

    async def no_arguments() -> Mapping[str, Any]:
        return {}

    async with nats_server() as server:
        found = connection.Connection([server.url], "test", arguments=no_arguments)
        await found.open()
        client: Any = found.client
        monkeypatch.setattr(client, "_flush_pending", asyncio.Event().wait)
        writer = client._transport._io_writer
        await found.close()
        assert writer.transport.is_closing()
