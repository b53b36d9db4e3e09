"""A trigger controller as a process: its environment, and what it runs on."""

import asyncio
import logging
import os
import secrets as dice
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controllers.cluster.api import api
from controllers.cluster.leases import SharedLeases, slot_of
from controllers.cluster.operator import operate, run_concurrently
from controllers.triggers.controller import TriggerController
from controllers.triggers.egress_policy import reach_from
from controllers.triggers.exposed_objects import Exposures
from controllers.triggers.gates import Gates
from controllers.triggers.secrets import Secrets
from controllers.triggers.store import ClusterStore
from trigger_sources.dispatch.host import EventStore, LocalHost
from trigger_sources.http.gateway import Gateway
from trigger_sources.observe.admin import FlowAdmin, served
from trigger_sources.observe.endpoint import metrics_endpoint
from trigger_sources.registry import kinds, source_of
from trigger_sources.stores.jetstream import JetStreamStore
from trigger_sources.stores.none import NoStore
from trigger_sources.transport.egress_policy import Reach

log = logging.getLogger(__name__)

LEASE_COUNT = 6  # Leases that the triggers of a controller are spread over: as many replicas share them at most
_ROUTES_TRIES = 200  # routes that are not served after these are answered 404 until they are
_ROUTES_TRY_SECONDS = 0.05


@dataclass(frozen=True)
class TriggerSettings:
    """What the chart says of a trigger controller."""

    replica: str
    release_namespace: str | None  # where its Leases are; None: there are no other replicas
    watch_namespace: str | None  # None: all
    secret_namespaces: Sequence[str]
    reach: Reach  # what triggers may call over HTTP
    kafka_brokers: Sequence[str]
    nats_servers: Sequence[str]
    store_servers: Sequence[str]  # JetStream of the fabric's own store; none: there is no store
    store_credentials: str  # the text of a .creds file, or nothing
    store_replicas: int  # of the store's streams
    port: int  # of metrics and health
    gateway_port: int
    gateway_url: str | None  # of its Service, for people
    admin_socket: Path | None
    grace_seconds: float


def settings_from(environment: Mapping[str, str]) -> TriggerSettings:
    """Raises ValueError that names the variable."""
    socket = environment.get("KUBEIRQ_ADMIN_SOCKET")
    return TriggerSettings(
        replica=replica_of(environment),
        release_namespace=environment.get("KUBEIRQ_NAMESPACE") or None,
        watch_namespace=environment.get("KUBEIRQ_WATCH_NAMESPACE") or None,
        secret_namespaces=environment.get("KUBEIRQ_SECRET_NAMESPACES", "").split(),
        reach=_reach(environment),
        kafka_brokers=environment.get("KUBEIRQ_KAFKA_BROKERS", "").split(),
        nats_servers=environment.get("KUBEIRQ_NATS_SERVERS", "").split(),
        store_servers=environment.get("KUBEIRQ_STORE_NATS_SERVERS", "").split(),
        store_credentials=_text_of(environment, "KUBEIRQ_STORE_NATS_CREDS"),
        store_replicas=number(environment, "KUBEIRQ_STORE_REPLICAS", 1, most=5),
        port=number(environment, "KUBEIRQ_PORT", 9090),
        gateway_port=number(environment, "KUBEIRQ_GATEWAY_PORT", 8080),
        gateway_url=environment.get("KUBEIRQ_GATEWAY_URL") or None,
        admin_socket=Path(socket) if socket else None,
        grace_seconds=number(environment, "KUBEIRQ_GRACE_SECONDS", 30, least=0),
    )


def replica_of(environment: Mapping[str, str]) -> str:
    """The name of this process, unlike that of every other."""
    return environment.get("KUBEIRQ_REPLICA") or f"{os.uname().nodename}-{os.getpid()}-{dice.token_hex(3)}"


def kinds_of(name: str) -> list[str]:
    """The kinds of the controller with this name: `kafka` is KafkaTrigger's. Raises ValueError."""
    names = {kind.lower().removesuffix("trigger"): kind for kind in kinds()}
    wanted = name.lower().removesuffix("trigger")
    if wanted not in names:
        raise ValueError(f"no trigger {name!r}; installed: {', '.join(sorted(names))}")
    return [names[wanted]]


async def run(name: str, settings: TriggerSettings) -> None:
    """Until a signal comes; what runs is drained then."""
    found = kinds_of(name)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(api())
        gates = Gates(settings.reach)
        stack.push_async_callback(gates.aclose)
        secrets = Secrets(settings.secret_namespaces)
        controller: TriggerController  # what follows asks it, and it is made of that
        kept: EventStore = NoStore()
        if settings.store_servers:
            kept = await stack.enter_async_context(
                JetStreamStore.open(
                    settings.store_servers,
                    replica=settings.replica,
                    credentials=settings.store_credentials,
                    replicas=settings.store_replicas,
                    may_take=lambda uid: controller.may_take(uid),
                )
            )
        gateway = Gateway()
        host = LocalHost(
            replica=settings.replica,
            store=ClusterStore(lambda uid: controller.status_of(uid), kept),
            gateway=gateway,
            secrets=secrets.text,
            defaults={"kafka": settings.kafka_brokers, "nats": settings.nats_servers},
            reach=settings.reach,
        )
        controller = TriggerController(
            client,
            found,
            host,
            gates,
            secrets,
            exposures=Exposures(client, namespace=settings.watch_namespace) if "HTTPTrigger" in found else None,
            gateway_url=settings.gateway_url,
            namespace=settings.watch_namespace,
            grace_seconds=settings.grace_seconds,
        )
        slots: SharedLeases | None = None
        if settings.release_namespace is not None:
            slots = SharedLeases(
                await stack.enter_async_context(api()),  # its own connections: a Lease waits behind nothing
                namespace=settings.release_namespace,
                name=f"kubeirq-{name}",
                identity=settings.replica,
                drain=lambda slot: controller.let_go(lambda uid: slot_of(uid, LEASE_COUNT) == slot),
                on_change=controller.duties_changed,
                count=LEASE_COUNT,
            )
            controller.duties = slots
        starting = _Starting(controller, serves=any("methods" in source_of(kind).model_fields for kind in found))
        metrics = metrics_endpoint("0.0.0.0", settings.port, readings=controller.readings, waiting=starting.waiting)
        await stack.enter_async_context(metrics)
        if settings.admin_socket is not None:
            admin = FlowAdmin(
                controller.flows, controller.triggers, replica=settings.replica, idle=controller.idle_because
            )
            await stack.enter_async_context(served(admin.application(), settings.admin_socket))
        log.info("controller runs", extra={"kinds": found, "replica": settings.replica})

        def work() -> Coroutine[Any, Any, None]:
            # what was held is drained before it is let go
            holding = () if slots is None else (slots.run(),)
            return run_concurrently(starting.listen(gateway, settings.gateway_port), controller.run(), *holding)

        await operate(
            controller.watches(),
            work,
            namespace=settings.watch_namespace,
            restricted=controller.secret_watches(),
            restricted_namespaces=settings.secret_namespaces,
        )
        log.info("controller has stopped")


class _Starting:
    """How far the process has come. The gateway listens once the routes are there: nobody sees a 404 in between."""

    def __init__(self, controller: TriggerController, *, serves: bool) -> None:
        self._controller = controller
        self._serves = serves
        self._listens = False

    def waiting(self) -> list[str]:
        """What keeps the process from being ready. A trigger that is not is no reason: the others are served."""
        if not self._controller.synced.is_set():
            return ["the triggers are not known yet"]
        return [] if self._listens or not self._serves else ["the gateway does not listen yet"]

    async def listen(self, gateway: Gateway, port: int) -> None:
        if not self._serves:
            return
        await self._controller.synced.wait()
        flows = self._controller.flows.running
        for _ in range(_ROUTES_TRIES):
            if all(running.flow.connected[0] for running in flows.values()):
                break
            await asyncio.sleep(_ROUTES_TRY_SECONDS)
        await gateway.start("0.0.0.0", port)
        self._listens = True


def number(environment: Mapping[str, str], name: str, default: int, least: int = 1, most: int = 65_535) -> int:
    """What a variable says. Raises ValueError that names it."""
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise ValueError(f"{name}: {text!r} is no whole number from {least} to {most}")
    return int(text)


def _reach(environment: Mapping[str, str]) -> Reach:
    """Raises ValueError that names the variable."""
    resolv_conf = Path("/etc/resolv.conf")
    try:
        return reach_from(
            environment.get("KUBEIRQ_REACH_ALLOW", "").split(),
            resolv_conf.read_text() if resolv_conf.exists() else "",
        )
    except ValueError as error:
        raise ValueError(f"KUBEIRQ_REACH_ALLOW: {error}") from None


def _text_of(environment: Mapping[str, str], name: str) -> str:
    """Of the file that the variable names; nothing where it names none."""
    path = environment.get(name)
    try:
        return Path(path).read_text() if path else ""
    except OSError as error:
        raise ValueError(f"{name}: {path}: {error.strerror}") from None
