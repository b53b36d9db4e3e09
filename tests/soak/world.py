"""The machine of a soak: real brokers, `kubeirq serve`, two functions, eight triggers, and the clients that send."""

import asyncio
import base64
import json
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from servers.fabric import Fabric, manifest
from servers.function import Function, function
from servers.kafka import SASL_PASSWORD, SASL_USER, Kafka, apache_kafka
from servers.nats import NATSServer, nats_server
from servers.ports import free_port
from soak.flow import SKIPPED_BY_FILTER, Flow
from soak.function import FUNCTION_CONCURRENCY, SOURCE, TIMEOUT_SECONDS, Commands, Record
from soak.readings import Readings, reported_lost
from soak.senders import KafkaSender, NATSSender, Sender, senders_of

MANAGED = "managed"  # the function that `serve` runs; the other one is an address
ADMINISTRATOR = {"user": "admin", "password": "of-the-servers"}
NATS_USER = "soak"
SEND_PAUSE_SECONDS = 0.08
_DELIVERY = {"backoffSeconds": 0.1, "backoffMaxSeconds": 1, "timeoutSeconds": 20}


class World:
    """All parts. `dice` decides the choices of the actions."""

    def __init__(self, folder: Path, dice: random.Random, kafka: Kafka, nats: NATSServer, external: Function) -> None:
        self.folder, self.dice = folder, dice
        self.kafka, self.nats, self.external = kafka, nats, external
        self.kafka_password, self.nats_password = SASL_PASSWORD, "first"
        self.commands = Commands(folder / "commands")
        self.record = Record(folder / "record")
        self.version = 1
        port, metrics = free_port(), free_port()
        self.fabric = Fabric(folder / "m", folder / "s", port, metrics_port=metrics)
        self.readings = Readings(metrics)
        self.flows = {flow.name: flow for flow in flows(kafka, nats, external)}
        login = {"user": ADMINISTRATOR["user"], "password": ADMINISTRATOR["password"]}
        self.senders: dict[str, Sender] = senders_of(list(self.flows.values()), kafka.bootstrap, nats.url, login, port)
        self.stopping = asyncio.Event()

    # --- files

    def write(self) -> None:
        """The manifests, as they are now."""
        environment = [{"name": name, "value": value} for name, value in variables(self.folder).items()]
        documents = [
            manifest(
                "Function", MANAGED, source={"path": "steps.py"}, handler="steps.handler",
                concurrency=FUNCTION_CONCURRENCY, timeoutSeconds=TIMEOUT_SECONDS, env=environment,
            ),
            _secret("kafka", self.kafka_password),
            _secret("nats", self.nats_password),
            *(manifest(flow.kind, flow.name, **flow.spec) for flow in self.flows.values()),
        ]  # fmt: skip
        (self.folder / "m" / "resources.yaml").write_text("\n---\n".join(map(json.dumps, documents)))

    def write_code(self, source: str) -> None:
        (self.folder / "m" / "steps.py").write_text(source)

    async def reload(self) -> None:
        assert self.fabric.process is not None
        self.write()
        self.fabric.process.send_signal(signal.SIGHUP)

    # --- looking

    def look(self) -> None:
        """Takes the calls that were recorded since the last time."""
        for call in self.record.news():
            self.flows[call.flow].called(call)

    async def not_ready(self) -> dict[str, str]:
        """The triggers that are not Ready, with the reason."""
        found = (await self.fabric.status())["triggers"]
        ready = {trigger["name"]: trigger["conditions"][0] for trigger in found}
        return {
            name: ready[name]["reason"] if name in ready else "NotThere"
            for name in self.flows
            if name not in ready or ready[name]["status"] != "True"
        }

    async def evidence(self, name: str) -> list[str]:
        """The trigger's status, and the last lines of the log that name it."""
        lines = [line for line in self.fabric.log.read_text(errors="replace").splitlines() if f"/{name}" in line]
        try:
            status = json.dumps(await self.fabric.trigger(name))
        except (aiohttp.ClientError, OSError, AssertionError, StopIteration) as error:
            status = repr(error)
        return [status, *lines[-20:]]

    async def dead_letters(self, flow: Flow) -> dict[str, str]:
        """The ids of the events in its dead letters, by identity."""
        base = f"/v1/triggers/default/{flow.kind}/{flow.name}/dead-letters"
        found = (await self.fabric.ask_json("GET", base))["deadLetters"]
        shown = [await self.fabric.ask_json("GET", f"{base}/show?identity={letter['identity']}") for letter in found]
        return {letter["identity"]: _id_of(letter) for letter in shown}

    async def take_dead_letters(self) -> None:
        """Notes the present dead letters of all triggers."""
        for flow in self.flows.values():
            flow.dead = set((await self.dead_letters(flow)).values()) if flow.promise == "once" else set()
            for id in flow.dead:
                flow.open.pop(id, None)

    def take_losses(self) -> None:
        """Notes the lost events that metrics and log report."""
        logged = reported_lost(self.fabric.log)
        for name, flow in self.flows.items():
            if flow.promise == "once":
                flow.reported_lost = {"log": logged.get(name, 0), "metric": self.readings.lost(name)}

    @asynccontextmanager
    async def interruption(self, *, of_serve: bool = True) -> AsyncIterator[None]:
        """Something ends that may repeat calls in progress: `serve`, which also loses its commits, or a function.

        Calls that are made between the reading of the metrics and the end of the context may be repeated, too.
        """
        before = await self.readings.take(self.fabric.pid)
        yield
        self.look()
        for name, flow in self.flows.items():
            uncommitted = before.uncommitted.get(name, 0) if of_serve else 0
            flow.repeatable += before.running.get(name, 0) + uncommitted + flow.calls_since(before.at)

    async def until(self, name: str, happened: Any, seconds: float) -> None:
        """Raises TimeoutError with that name."""
        try:
            async with asyncio.timeout(seconds):
                while not await happened():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"{name}: not within {seconds:.0f} s") from None

    async def drained(self, flow: Flow) -> None:
        """Returns once nothing of this trigger is open. Call it while nobody sends."""

        async def nothing_is_open() -> bool:
            self.look()
            return not flow.open

        await self.until(f"{flow.name} has no open events", nothing_is_open, 45)

    # --- choosing

    def choose(self, *kinds: str, **attributes: Any) -> Flow:
        return self.dice.choice(self.of_kind(*kinds, **attributes))

    def of_kind(self, *kinds: str, **attributes: Any) -> list[Flow]:
        return [
            flow
            for flow in self.flows.values()
            if (not kinds or flow.kind in kinds)
            and all(getattr(flow, name) == value for name, value in attributes.items())
        ]

    def kafka_sender(self, flow: Flow) -> KafkaSender:
        sender = self.senders[flow.name]
        assert isinstance(sender, KafkaSender)
        return sender

    def nats_sender(self, flow: Flow) -> NATSSender:
        sender = self.senders[flow.name]
        assert isinstance(sender, NATSSender)
        return sender


def flows(kafka: Kafka, nats: NATSServer, external: Function) -> Sequence[Flow]:
    """The eight triggers."""
    by_name: dict[str, Any] = {"function": MANAGED, "delivery": _DELIVERY}
    by_address: dict[str, Any] = {"url": external.url, "delivery": _DELIVERY}
    security = {"username": NATS_USER, "password": {"name": "nats", "key": "password"}}
    on_nats = {"servers": [nats.url], "security": security}
    sasl = {"mechanism": "PLAIN", "username": SASL_USER, "password": {"name": "kafka", "key": "password"}}
    common = {"concurrency": (2, 8, 16), "filter": (None, SKIPPED_BY_FILTER)}
    lanes = {**common, "ordering": ("key", "partition")}
    return [
        Flow(
            "kafka-earliest", "KafkaTrigger",
            {**by_name, "brokers": [kafka.bootstrap], "topics": ["earliest"], "ordering": "key"},
            ordered=True, edits=lanes,
        ),
        Flow(
            "kafka-latest", "KafkaTrigger",
            {**by_address, "brokers": [kafka.sasl_bootstrap], "topics": ["latest"], "start": "latest",
             "security": {"sasl": sasl}},
            ordered=True, edits=common,
        ),
        Flow(
            "kafka-partition", "KafkaTrigger",
            {**by_name, "brokers": [kafka.bootstrap], "topics": ["partition"], "ordering": "partition"},
            ordered=True, edits=lanes,
        ),
        Flow(
            "stream-ordered", "NATSTrigger",
            {**by_name, **on_nats, "subject": "ordered.>", "ordering": "key", "ackWaitSeconds": 5},
            ordered=True, edits=common,
        ),
        Flow(
            "stream-none", "NATSTrigger",
            {**by_address, **on_nats, "subject": "none.>", "ackWaitSeconds": 5},
            edits={**common, "ordering": ("key", "none")},
        ),
        Flow(
            "core", "NATSTrigger", {**by_address, **on_nats, "subject": "core.>", "mode": "core"}, promise="most",
        ),
        Flow(
            "ticks", "CronTrigger",
            {**by_name, "schedule": "* * * * * *", "catchUp": "all", "payload": {"flow": "ticks"}}, sends=False,
            edits={"concurrency": common["concurrency"]},
        ),
        Flow(
            "requests", "HTTPTrigger",
            {**by_address, "path": "/requests", "answer": "accepted", "ordering": "key", "keyHeader": "x-key"},
            ordered=True, edits=common,
        ),
    ]  # fmt: skip


def variables(folder: Path) -> dict[str, str]:
    """The environment of both functions."""
    return {"RECORD": str(folder / "record"), "COMMANDS": str(folder / "commands")}


def nats_config(password: str) -> str:
    users = [ADMINISTRATOR, {"user": NATS_USER, "password": password}]
    named = ", ".join(f'{{user: {user["user"]}, password: "{user["password"]}"}}' for user in users)
    return f"authorization {{ users = [ {named} ] }}"


@asynccontextmanager
async def world(folder: Path, dice: random.Random) -> AsyncIterator[World]:
    """A running world, in which every trigger is Ready and nothing was sent yet."""
    (folder / "m").mkdir(parents=True)
    async with AsyncExitStack() as stack:
        kafka = await stack.enter_async_context(apache_kafka(sasl="PLAIN"))
        server = await stack.enter_async_context(nats_server(config=nats_config("first")))
        external = await stack.enter_async_context(
            function(
                SOURCE,
                FUNC_CONCURRENCY=str(FUNCTION_CONCURRENCY),
                FUNC_TIMEOUT=str(TIMEOUT_SECONDS),
                **variables(folder),
            )
        )
        found = World(folder, dice, kafka, server, external)
        stack.push_async_callback(_close, found)
        found.write_code(SOURCE)
        found.write()
        for sender in found.senders.values():
            if isinstance(sender, KafkaSender | NATSSender) and sender.flow.promise == "once":
                await sender.create()
        await found.fabric.start()

        async def all_ready() -> bool:
            return not await found.not_ready()

        await found.until("all triggers are Ready", all_ready, 60)
        yield found


async def _close(found: World) -> None:
    """Ends every process that the world has started."""
    found.stopping.set()
    for sender in found.senders.values():
        await sender.close()
    process = found.fabric.process
    if process is not None and process.returncode is None:
        process.send_signal(signal.SIGCONT)
        await found.fabric.stop()


def _secret(name: str, password: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": password}}


def _id_of(letter: Any) -> str:
    data = json.loads(base64.b64decode(letter["data"]))
    return str(data.get("id") or letter["eventId"].rpartition("/")[2])
