"""The NATS server of the chart, with the configuration that the chart renders."""

import asyncio
import json
import sys
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
from servers.nats_source import DONE, reading, trigger
from servers.ports import free_port

from trigger_sources.testing import StandInContext

PASSWORD = "oRtYcqWbNsKdLfGhPmZx"
MONITORING = "127.0.0.1:8222"  # it has no login and shows all accounts, so it is open within the pod only
SMALL = {"store": {"embedded": {"events": {"maxFileSize": "1Mi"}}}}
CLOSED = {"store": {"embedded": {"events": {"enabled": False}}}}


@asynccontextmanager
async def store(values: dict[str, Any]) -> AsyncIterator[NATSServer]:
    objects = {(found["kind"], found["metadata"]["name"]): found for found in await rendered(values)}
    text: str = objects["ConfigMap", "kubeirq-store"]["data"]["nats.conf"]
    assert f"http: {MONITORING}" in text
    assert "store_dir: /data" in text
    assert "sync_interval: always" in text
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORE_PASSWORD", PASSWORD)
        here = text.replace(MONITORING, f"127.0.0.1:{free_port()}").replace("/data", folder)
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
TRIGGERS = f"triggers:{PASSWORD}@"


async def test_the_probes_ask_within_the_pod_and_find_a_server_that_is_not_healthy() -> None:
    objects = {(found["kind"], found["metadata"]["name"]): found for found in await rendered({})}
    (container,) = objects["StatefulSet", "kubeirq-store"]["spec"]["template"]["spec"]["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [4222]
    probes = [container[f"{name}Probe"]["exec"]["command"] for name in ("startup", "liveness", "readiness")]
    port, nothing = free_port(), free_port()
    text: str = objects["ConfigMap", "kubeirq-store"]["data"]["nats.conf"]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORE_PASSWORD", PASSWORD)
        here = text.replace(MONITORING, f"127.0.0.1:{port}").replace("/data", folder)
        async with nats_server(config=here, jetstream=False):
            assert [await exit_code(command, port) for command in probes] == [0, 0, 0]
            assert [await exit_code(command, nothing) for command in probes] == [1, 1, 1]
            wrong = [[*command[:-1], command[-1].replace("/healthz", "/healthz/no")] for command in probes]
            assert [await exit_code(command, port) for command in wrong] == [1, 1, 1]


async def exit_code(command: list[str], port: int) -> int:
    _, *arguments, program = command
    here = (*arguments, program.replace("8222", str(port)))
    process = await asyncio.create_subprocess_exec(sys.executable, *here, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


async def test_only_the_fabrics_account_can_read_its_data() -> None:
    async with store({}) as server, client(server, FABRIC) as fabric, client(server, TRIGGERS) as triggers:
        await fabric.jetstream().add_stream(name="kept", subjects=["kept.>"])
        await fabric.jetstream().publish("kept.a", b"1")
        with pytest.raises(NotFoundError):
            await triggers.jetstream().stream_info("kept")
        await triggers.jetstream().add_stream(name="kept", subjects=["kept.>"])  # another of the same name
        async with client(server) as anyone:
            await anyone.jetstream().publish("kept.a", b"2")
        assert (await fabric.jetstream().get_msg("kept", 1)).data == b"1"
        for user in ("fabric:wrong@", "fabric:@", "fabric@"):
            await is_refused(server, user)


STREAM, CONSUMER = "ORDERS", "kubeirq-default-trigger-function"
CONFIG = {"name": CONSUMER, "durable_name": CONSUMER, "ack_policy": "explicit", "max_deliver": 1}
CREATE = {"stream_name": STREAM, "config": CONFIG}
CALLS: dict[str, Any] = {
    "INFO": {},
    "ACCOUNT.PURGE.EVENTS": {},
    "ACCOUNT.STREAM.MOVE.EVENTS.ORDERS": {},
    "META.LEADER.STEPDOWN": {},
    "SERVER.REMOVE": {},
    "STREAM.NAMES": {},
    "STREAM.LIST": {},
    f"STREAM.INFO.{STREAM}": {},
    "STREAM.CREATE.other": {"name": "other", "subjects": ["other"]},
    f"STREAM.UPDATE.{STREAM}": {"name": STREAM, "subjects": ["orders.>"], "max_msgs": 1},
    f"STREAM.DELETE.{STREAM}": None,
    f"STREAM.PURGE.{STREAM}": None,
    f"STREAM.MSG.GET.{STREAM}": {"seq": 1},
    f"STREAM.MSG.DELETE.{STREAM}": {"seq": 1},
    f"STREAM.SNAPSHOT.{STREAM}": {"deliver_subject": "mine"},
    f"STREAM.RESTORE.{STREAM}": {},
    f"STREAM.PEER.REMOVE.{STREAM}": {"peer": "x"},
    f"STREAM.LEADER.STEPDOWN.{STREAM}": None,
    f"CONSUMER.CREATE.{STREAM}": CREATE,
    f"CONSUMER.CREATE.{STREAM}.{CONSUMER}": CREATE,
    f"CONSUMER.CREATE.{STREAM}.{CONSUMER}.orders.a": CREATE,
    f"CONSUMER.CREATE.{STREAM}.mine": {"stream_name": STREAM, "config": {"name": "mine", "deliver_subject": "mine"}},
    f"CONSUMER.DURABLE.CREATE.{STREAM}.{CONSUMER}": CREATE,
    f"CONSUMER.NAMES.{STREAM}": {},
    f"CONSUMER.LIST.{STREAM}": {},
    f"CONSUMER.INFO.{STREAM}.{CONSUMER}": {},
    f"CONSUMER.DELETE.{STREAM}.{CONSUMER}": None,
    f"CONSUMER.PAUSE.{STREAM}.{CONSUMER}": {"pause_until": "2100-01-01T00:00:00Z"},
    f"CONSUMER.UNPIN.{STREAM}.{CONSUMER}": {"group": "x"},
    f"CONSUMER.RESET.{STREAM}.{CONSUMER}": {"seq": 1},
    f"CONSUMER.LEADER.STEPDOWN.{STREAM}.{CONSUMER}": None,
    f"CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}": {"batch": 1, "no_wait": True},
    f"DIRECT.GET.{STREAM}": {"seq": 1},
    f"DIRECT.GET.{STREAM}.orders.a": None,
    "NEW.VERB.OF.A.LATER.SERVER": {},
}
CLOSED_SUBJECTS = [
    f"$JS.ACK.{STREAM}.{CONSUMER}.1.1.1.1.1", "$JS.FC.x", "$JS.SNAPSHOT.ACK.x", "$SYS.REQ.USER.INFO",
    "$SYS.REQ.ACCOUNT.PING.CONNZ", "$KV.bucket.key", "$O.bucket.C.x", f"$KUBEIRQ.dead.{STREAM}.a.b",
    "_INBOX.kubeirq.a.b", "_R_.a.b",
]  # fmt: skip


class Stranger:
    """A client without a login, and what the server refuses it."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.client: Client

    async def note(self, error: Exception) -> None:
        self.refused.append(str(error).lower())

    async def is_refused(self, operation: str, subject: str) -> None:
        async with asyncio.timeout(10):
            while not any(f'{operation} to "{subject.lower()}"' in text for text in self.refused):
                await asyncio.sleep(0.01)


@asynccontextmanager
async def stranger_at(server: NATSServer) -> AsyncIterator[Stranger]:
    stranger = Stranger()
    async with client(server, on_error=stranger.note) as stranger.client:
        yield stranger


async def orders(triggers: Client) -> Any:
    """A stream with two events and the consumer of a trigger. Returns the consumer's state."""
    stream = triggers.jetstream()
    await stream.add_stream(name=STREAM, subjects=["orders.>"])
    await stream.add_consumer(STREAM, durable_name=CONSUMER, ack_policy="explicit")
    await stream.publish("orders.a", b"1")
    await stream.publish("orders.a", b"2")
    return await stream.consumer_info(STREAM, CONSUMER)


async def test_a_client_without_a_login_has_no_jetstream_api() -> None:
    async with store({}) as server, client(server, TRIGGERS) as triggers, stranger_at(server) as stranger:
        before = await orders(triggers)
        for call, body in CALLS.items():
            data = b"" if body is None else json.dumps(body).encode()
            await stranger.client.publish(f"$JS.API.{call}", data, reply=stranger.client.new_inbox())
            await stranger.is_refused("publish", f"$JS.API.{call}")
        stream = triggers.jetstream()
        assert (await stream.stream_info(STREAM)).state.messages == 2
        after = await stream.consumer_info(STREAM, CONSUMER)
        assert (after.config, after.delivered, after.num_pending) == (before.config, before.delivered, 2)
        assert [found.config.name for found in await stream.streams_info()] == [STREAM]
        assert [found.name for found in await stream.consumers_info(STREAM)] == [CONSUMER]


async def test_a_client_without_a_login_sends_and_sees_nothing_of_the_server_and_the_fabric() -> None:
    async with store({}) as server, client(server, TRIGGERS) as triggers, stranger_at(server) as stranger:
        seen: list[str] = []

        async def see(message: Any) -> None:
            seen.append(message.subject)

        for pattern in (">", "*.>", "_INBOX.>", "_INBOX.*.*.*", "$JS.>", "$JS.API.>", "$KUBEIRQ.>"):
            await stranger.client.subscribe(pattern, cb=see)
        for subject in CLOSED_SUBJECTS:
            await stranger.client.publish(subject, b"forged")
            await stranger.is_refused("publish", subject)
            await stranger.client.subscribe(subject, cb=see)
            await stranger.is_refused("subscription", subject)
        await orders(triggers)
        for subject in CLOSED_SUBJECTS:
            await triggers.publish(subject, b"secret")
        await triggers.flush()
        await triggers.publish("end.of.it", b"")
        await triggers.flush()
        async with asyncio.timeout(10):
            while seen.count("end.of.it") < 2:
                await asyncio.sleep(0.01)
        theirs = {subject for subject in seen if not subject.startswith(("orders.", "end.", "_INBOX."))}
        assert theirs == set()
        assert not any(subject.startswith("_INBOX.kubeirq.") for subject in seen)


async def test_a_trigger_and_its_answers_are_out_of_the_reach_of_a_client_without_a_login() -> None:
    async with store({}) as server, client(server) as anyone:
        subjects: list[tuple[str, str]] = []

        async def see(message: Any) -> None:
            subjects.append((message.subject, message.reply))

        await anyone.subscribe(">", cb=see)
        context = StandInContext(own_servers={"nats"}, defaults={"nats": [server.url.replace("//", f"//{TRIGGERS}")]})
        async with reading(trigger(None, subject="orders.>"), context) as reader:
            answer = await anyone.jetstream().publish("orders.a", b"1")  # with an answer to its own inbox
            assert (answer.stream, answer.seq) == (STREAM, 1)
            (delivery,) = await reader.until(1, settle=False)
            for attempt in (
                await acknowledgement_at(server),
                "$JS.API.STREAM.PURGE.ORDERS",
                "$JS.API.STREAM.DELETE.ORDERS",
            ):
                # The server confirms an event to the subject that its sender names: that is no way into its API
                await anyone.publish("orders.b", b"", reply=attempt)
            await anyone.flush()
            await delivery.settle(DONE)
            async with client(server, TRIGGERS) as triggers:
                state = (await triggers.jetstream().stream_info(STREAM)).state
                assert (state.first_seq, state.messages) == (1, state.last_seq)
        fabric = [found for found in subjects if not found[0].startswith(("orders.", "_INBOX."))]
        assert fabric == []
        assert not any(text.startswith("_INBOX.kubeirq.") for found in subjects for text in found)


async def acknowledgement_at(server: NATSServer) -> str:
    """The subject that acknowledges a message of a consumer."""
    async with client(server, TRIGGERS) as triggers:
        stream = triggers.jetstream()
        await stream.add_consumer(STREAM, durable_name="second", ack_policy="explicit")
        (message,) = await (await stream.pull_subscribe_bind("second", STREAM)).fetch(1)
        return str(message.reply)


async def test_nobody_without_a_login_takes_messages_of_a_core_trigger() -> None:
    async with store({}) as server, client(server) as anyone, stranger_at(server) as stranger:
        address = server.url.replace("//", f"//{TRIGGERS}")
        context = StandInContext(defaults={"nats": [address]})
        async with reading(trigger(None, subject="work", mode="core"), context) as reader:
            await stranger.client.subscribe("work", queue="kubeirq-default-trigger-function")
            await stranger.is_refused("subscription", "work")
            for number in range(40):
                await anyone.publish("work", b"%d" % number)
            found = await reader.until(40)
            assert [delivery.event.data for delivery in found] == [b"%d" % number for number in range(40)]


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
    async with (
        store(SMALL) as server,
        client(server, FABRIC) as fabric,
        client(server, TRIGGERS) as triggers,
        client(server) as anyone,
    ):
        stream = anyone.jetstream()
        await triggers.jetstream().add_stream(name="events", subjects=["events"])
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
