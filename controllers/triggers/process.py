"""Runs a trigger controller process: reads its environment, and connects its parts."""

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from secrets import token_hex
from typing import Any

from controllers.cluster.api import api
from controllers.cluster.leases import SharedLeases, slot_of
from controllers.cluster.metrics import controller_metrics
from controllers.cluster.operator import operate, run_concurrently
from controllers.functions.callers import Peer, callers_from
from controllers.triggers.admin_port import AdminPort, addresses_of
from controllers.triggers.admin_rights import Rights
from controllers.triggers.controller import TriggerController
from controllers.triggers.egress_policy import egress_policy_from
from controllers.triggers.exposed_objects import ExposedObjects
from controllers.triggers.gates import Gates
from controllers.triggers.peers import Peers
from controllers.triggers.secret_watches import SecretWatches
from controllers.triggers.secrets import Secrets, way_out_of
from controllers.triggers.served import ServedTriggers
from controllers.triggers.shared_certificate import SharedCertificate
from controllers.triggers.store import ClusterStore
from trigger_sources.descriptors import raise_limit
from trigger_sources.dispatch.host import EventStore, LocalHost, events_memory
from trigger_sources.http.gateway import Bounds, Gateway
from trigger_sources.inbox import STORE_AWAY
from trigger_sources.memory_limit import memory_limit
from trigger_sources.observe.admin import FlowAdmin, served
from trigger_sources.observe.budgets import budget_metrics
from trigger_sources.observe.endpoint import metrics_endpoint
from trigger_sources.registry import kinds, source_of
from trigger_sources.stores.jetstream import JetStreamStore
from trigger_sources.stores.none import NoStore
from trigger_sources.transport.egress_policy import Reach

log = logging.getLogger(__name__)

LEASE_COUNT = 6  # the Leases of a controller, for its triggers; at most this many replicas share the work
_ROUTES_SECONDS = 10.0  # afterwards the gateway listens; the routes that are still missing are answered 503
_PROBLEM_SECONDS = 2.0  # the same, for a trigger that has reported a problem
_ROUTES_TRY_SECONDS = 0.05
_COME = {"Starting", STORE_AWAY}  # reasons that pass by themselves, as a rule


@dataclass(frozen=True)
class TriggerSettings:
    """The settings of a trigger controller, from the chart."""

    replica: str
    release_namespace: str | None  # has the Leases; None if there are no other replicas
    watch_namespace: str | None  # None for all
    release: str  # namespace/name of the installation; empty outside of a chart
    secrets_role: str  # the ClusterRole that lets a controller read the Secrets of a namespace; empty for none
    service_account: str  # namespace:name; empty outside of a cluster
    egress_policy: Reach  # for calls over HTTP
    kafka_brokers: Sequence[str]
    nats_servers: Sequence[str]
    own_servers: Sequence[str]  # the kinds whose default addresses are servers that the chart runs
    store_servers: Sequence[str]  # the JetStream servers of the fabric's store; empty without a store
    store_credentials: str  # the text of a .creds file, or empty
    store_replicas: int  # of each stream
    port: int  # for metrics and health
    gateway_port: int
    gateway_url: str | None  # for addresses in the status
    exposed_callers: Sequence[Peer] | None  # that reach the functions of exposed triggers; None where all reach all
    admin_socket: Path | None
    admin_certificate: Path | None  # a folder; without it there is no admin port, and the other replicas are not asked
    admin_port: int
    admin_peers: str  # the name of a headless Service of all replicas
    admin_users: bool  # whether the port also serves users
    grace_seconds: float
    memory_limit: int  # of the process, in bytes


def settings_from(environment: Mapping[str, str]) -> TriggerSettings:
    """Reads the environment variables. Raises ValueError, which names the variable."""
    socket, certificate = environment.get("KUBEIRQ_ADMIN_SOCKET"), environment.get("KUBEIRQ_ADMIN_CERTIFICATE")
    return TriggerSettings(
        replica=replica_of(environment),
        release_namespace=environment.get("KUBEIRQ_NAMESPACE") or None,
        watch_namespace=environment.get("KUBEIRQ_WATCH_NAMESPACE") or None,
        release=environment.get("KUBEIRQ_RELEASE", ""),
        secrets_role=environment.get("KUBEIRQ_SECRETS_ROLE", ""),
        service_account=environment.get("KUBEIRQ_SERVICE_ACCOUNT", ""),
        egress_policy=_egress_policy(environment),
        kafka_brokers=environment.get("KUBEIRQ_KAFKA_BROKERS", "").split(),
        nats_servers=environment.get("KUBEIRQ_NATS_SERVERS", "").split(),
        own_servers=environment.get("KUBEIRQ_OWN_SERVERS", "").split(),
        store_servers=environment.get("KUBEIRQ_STORE_NATS_SERVERS", "").split(),
        store_credentials=_text_of(environment, "KUBEIRQ_STORE_NATS_CREDS"),
        store_replicas=number(environment, "KUBEIRQ_STORE_REPLICAS", 1, most=5),
        port=number(environment, "KUBEIRQ_PORT", 9090),
        gateway_port=number(environment, "KUBEIRQ_GATEWAY_PORT", 8080),
        gateway_url=environment.get("KUBEIRQ_GATEWAY_URL") or None,
        exposed_callers=callers_from(environment.get("KUBEIRQ_EXPOSED_CALLERS", ""), "KUBEIRQ_EXPOSED_CALLERS"),
        admin_socket=Path(socket) if socket else None,
        admin_certificate=Path(certificate) if certificate else None,
        admin_port=number(environment, "KUBEIRQ_ADMIN_PORT", 9443),
        admin_peers=environment.get("KUBEIRQ_ADMIN_PEERS", ""),
        admin_users=environment.get("KUBEIRQ_ADMIN_USERS", "true") != "false",
        grace_seconds=number(environment, "KUBEIRQ_GRACE_SECONDS", 30, least=0),
        memory_limit=memory_limit(environment),
    )


def replica_of(environment: Mapping[str, str]) -> str:
    """A name for this process that is unique among all replicas."""
    return environment.get("KUBEIRQ_REPLICA") or f"{os.uname().nodename}-{os.getpid()}-{token_hex(3)}"


def kinds_of(name: str) -> list[str]:
    """The kinds of the controller with this name: KafkaTrigger for `kafka`. Raises ValueError."""
    names = {kind.lower().removesuffix("trigger"): kind for kind in kinds()}
    wanted = name.lower().removesuffix("trigger")
    if wanted not in names:
        raise ValueError(f"unknown trigger {name!r}; installed: {', '.join(sorted(names))}")
    return [names[wanted]]


async def run(name: str, settings: TriggerSettings) -> None:
    """Runs until a signal arrives, then drains the flows."""
    found = kinds_of(name)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(api())
        gates = Gates(settings.egress_policy)
        stack.push_async_callback(gates.aclose)
        secrets = Secrets(way_out_of(settings.secrets_role, settings.service_account))
        secret_watches = SecretWatches(await stack.enter_async_context(api(connections=0)), secrets)
        stack.push_async_callback(secret_watches.aclose)
        controller: TriggerController  # its parts call it, and are created before it
        events: EventStore = NoStore()
        if settings.store_servers:
            events = await stack.enter_async_context(
                JetStreamStore.open(
                    settings.store_servers,
                    replica=settings.replica,
                    credentials=settings.store_credentials,
                    replicas=settings.store_replicas,
                    may_take=lambda uid: controller.may_take(uid),
                )
            )
        raise_limit()
        gateway = Gateway(Bounds.within(settings.memory_limit))
        host = LocalHost(
            replica=settings.replica,
            store=ClusterStore(lambda uid: controller.status_of(uid), events),
            gateway=gateway,
            secrets=secrets.text,
            defaults={"kafka": settings.kafka_brokers, "nats": settings.nats_servers},
            own_servers=settings.own_servers,
            reach=settings.egress_policy,
            memory=events_memory(settings.memory_limit),
        )
        exposed_objects: ExposedObjects | None = None
        if "HTTPTrigger" in found:
            callers = settings.exposed_callers
            exposed_objects = ExposedObjects(client, namespace=settings.watch_namespace, callers=callers)
        certificate: SharedCertificate | None = None
        served_triggers: ServedTriggers | None = None
        peers: Peers | None = None
        if settings.admin_certificate is not None:
            certificate = SharedCertificate(settings.admin_certificate)
            served_triggers = ServedTriggers(settings.replica)
            if settings.release_namespace is not None and settings.admin_peers:
                peers = Peers(
                    client,
                    certificate,
                    namespace=settings.release_namespace,
                    service=settings.admin_peers,
                    replica=settings.replica,
                )
        controller = TriggerController(
            client,
            found,
            host,
            gates,
            secrets,
            secret_watches,
            exposed_objects=exposed_objects,
            gateway_url=settings.gateway_url,
            served=served_triggers,
            peers=peers,
            namespace=settings.watch_namespace,
            release=settings.release,
            grace_seconds=settings.grace_seconds,
        )
        leases: SharedLeases | None = None
        if settings.release_namespace is not None:
            leases = SharedLeases(
                await stack.enter_async_context(api()),  # its own connections, so that a renewal never waits
                namespace=settings.release_namespace,
                name=f"kubeirq-{name}",
                identity=settings.replica,
                drain=lambda slot: controller.drain(lambda uid: slot_of(uid, LEASE_COUNT) == slot),
                on_change=lambda slots: controller.leases_changed(lambda uid: slot_of(uid, LEASE_COUNT) in slots),
                count=LEASE_COUNT,
            )
            controller.leases = leases
        has_gateway = any("methods" in source_of(kind).model_fields for kind in found)
        readiness = _Readiness(controller, served_triggers, has_gateway=has_gateway)
        metrics = metrics_endpoint(
            "0.0.0.0",
            settings.port,
            readings=controller.readings,
            waiting=readiness.missing,
            metrics=lambda: chain(controller_metrics(), budget_metrics(host.memory, gateway.memory)),
        )
        await stack.enter_async_context(metrics)
        if settings.admin_socket is not None:
            admin = FlowAdmin(
                controller.flows, controller.triggers, replica=settings.replica, idle=controller.idle_reason
            )
            await stack.enter_async_context(served(admin.application(), settings.admin_socket))
            if certificate is not None and served_triggers is not None:
                kinds_and_groups = {kind: source_of(kind).api_group for kind in found}
                port = AdminPort(
                    Rights(client, kinds_and_groups) if settings.admin_users else None,
                    found[0],
                    replica=settings.replica,
                    triggers=served_triggers,
                    admin_socket=settings.admin_socket,
                    certificate=certificate,
                    port=settings.admin_port,
                    addresses=addresses_of(settings.admin_peers),
                )
                try:
                    await stack.enter_async_context(port.served("0.0.0.0"))
                except OSError as error:  # the triggers run without it
                    log.error("admin port not served", extra={"problem": str(error) or repr(error)})
        log.info("controller runs", extra={"kinds": found, "replica": settings.replica})

        def work() -> Coroutine[Any, Any, None]:
            # in the order of the stop: the flows drain before the Leases are released
            asking = () if peers is None else (peers.run(),)
            holding = () if leases is None else (leases.run(),)
            listening = readiness.listen(gateway, settings.gateway_port)
            return run_concurrently(listening, controller.run(), *asking, *holding)

        await operate(controller.watches(), work, namespace=settings.watch_namespace)
        log.info("controller has stopped")


class _Readiness:
    """The readiness of the process. The gateway listens once it has its routes, so that no caller gets a 404 before."""

    def __init__(self, controller: TriggerController, served: ServedTriggers | None, *, has_gateway: bool) -> None:
        self._controller = controller
        self._served = served
        self._has_gateway = has_gateway
        self._listens = False

    def missing(self) -> list[str]:
        """The reasons why the process is not ready. A trigger that is not ready does not count."""
        if not self._controller.synced.is_set():
            return ["the triggers are not listed yet"]
        return [] if self._listens or not self._has_gateway else ["the gateway does not listen yet"]

    async def listen(self, gateway: Gateway, port: int) -> None:
        await self._controller.synced.wait()
        if self._has_gateway:
            await self._begin(gateway, port)
        if self._served is not None:
            self._served.takes_requests()

    async def _begin(self, gateway: Gateway, port: int) -> None:
        flows, began = self._controller.flows.running, time.monotonic()
        while not may_listen(  # noqa: ASYNC110  flows have no event for this
            (running.flow.connected for running in flows.values()), time.monotonic() - began
        ):
            await asyncio.sleep(_ROUTES_TRY_SECONDS)
        await gateway.start("0.0.0.0", port)
        self._listens = True


def may_listen(connected: Iterable[tuple[bool, str, str]], seconds: float) -> bool:
    """Whether the gateway listens after so many seconds.

    `connected` has whether each flow is connected, and the reason and message. A trigger that cannot connect, for
    example because its Secret is missing, does not keep the requests of the others waiting. An upgrade of the release
    replaces the store, too, so that a store that is away counts as one that comes back.
    """
    missing = {reason for is_connected, reason, _ in connected if not is_connected}
    return not missing or seconds >= (_ROUTES_SECONDS if missing & _COME else _PROBLEM_SECONDS)


def number(environment: Mapping[str, str], name: str, default: int, least: int = 1, most: int = 65_535) -> int:
    """The number in an environment variable. Raises ValueError, which names the variable."""
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise ValueError(f"{name}: {text!r} is not a whole number from {least} to {most}")
    return int(text)


def _egress_policy(environment: Mapping[str, str]) -> Reach:
    """Raises ValueError, which names the variable."""
    resolv_conf = Path("/etc/resolv.conf")
    try:
        return egress_policy_from(
            environment.get("KUBEIRQ_REACH_ALLOW", "").split(),
            resolv_conf.read_text() if resolv_conf.exists() else "",
        )
    except ValueError as error:
        raise ValueError(f"KUBEIRQ_REACH_ALLOW: {error}") from None


def _text_of(environment: Mapping[str, str], name: str) -> str:
    """The text of the file whose path is in the variable, empty without a path."""
    path = environment.get(name)
    try:
        return Path(path).read_text() if path else ""
    except OSError as error:
        raise ValueError(f"{name}: {path}: {error.strerror}") from None
