"""The fabric on one machine: functions as processes, a flow for each trigger and function, embedded brokers."""

import asyncio
import itertools
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from controllers.triggers.ownership import Key, Ownership
from kubeirq.on_machine.broker_supervisor import Broker, BrokerFailed
from kubeirq.on_machine.brokers import BROKERS, brokers_needed
from kubeirq.on_machine.desired_state import DesiredState
from kubeirq.on_machine.function_process import FunctionProcess
from kubeirq.on_machine.function_processes import FunctionKey, FunctionProcesses
from kubeirq.output.function_log_lines import LogLine
from trigger_sources.context import SourceError
from trigger_sources.descriptors import raise_limit
from trigger_sources.dispatch.flows import FlowKey, Flows, RunningTrigger, TriggerResource, functions_of, without_flow
from trigger_sources.dispatch.held import Seen
from trigger_sources.dispatch.host import LocalHost, events_memory
from trigger_sources.http.gateway import Bounds, Gateway
from trigger_sources.memory_limit import VARIABLE, memory_limit
from trigger_sources.source import TriggerSource
from trigger_sources.spec import SecretRef
from trigger_sources.stores.sqlite import Store

_ROUTES_ATTEMPTS = 200
_ROUTES_ATTEMPT_SECONDS = 0.01


@dataclass(frozen=True)
class RefusedReload:
    """The files have changed since, and what they say now cannot run."""

    problems: Sequence[str]
    at: float  # seconds since the epoch


class Fabric:
    """Open it, then call `apply` with the desired state, again after each change. Use it in one event loop.

    Raises SourceError if the setting KUBEIRQ_MEMORY_LIMIT is wrong.
    """

    def __init__(
        self,
        state: Path,
        *,
        http_host: str = "127.0.0.1",
        http_port: int = 8080,
        observe: Callable[[Seen], None] | None = None,
        show_line: Callable[[LogLine], None] = lambda _: None,
        notice: Callable[[str], None] = lambda _: None,
        debug: Mapping[str, int] | None = None,
    ) -> None:
        self.state = state
        self.replica = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(3)}"
        self.started_at = time.time()
        self.function_processes = FunctionProcesses(state, show_line=show_line, notice=notice, debug=debug or {})
        self.triggers: dict[str, TriggerResource] = {}
        self.brokers: dict[str, Broker] = {}
        raise_limit()
        self._memory_limit = _memory_limit()
        self.gateway = Gateway(Bounds.within(self._memory_limit))
        self.desired = DesiredState((), (), _no_secret, lambda _: {})
        self.refused_reload: RefusedReload | None = None  # while the files are not what runs
        self._http = http_host, http_port
        self._port = http_port
        self._observe = observe
        self._notice = notice
        self._default_addresses: dict[str, list[str]] = {}
        self._ownership = Ownership(one_tenant=True)
        self._arrived: dict[Key, tuple[str, int]] = {}  # uid of each trigger, and its number in the order of arrival
        self._numbers = itertools.count()
        self._applying = asyncio.Lock()
        self._listening = False
        self._stopping = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises SourceError if the store cannot be opened."""
        async with AsyncExitStack() as stack:
            self.store = await stack.enter_async_context(Store.open(self.state / "kubeirq.sqlite"))
            self.host = LocalHost(
                replica=self.replica,
                store=self.store,
                gateway=self.gateway,
                secrets=lambda namespace, reference: self.desired.secret(namespace, reference),
                defaults=self._default_addresses,
                own_servers=("kafka", "nats"),
                memory=events_memory(self._memory_limit),
            )
            self.running_flows = Flows(self.host, self.function_processes.gate, observe=self._observe)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self.stop(0)
        finally:
            self.function_processes.close_logs()
            await self._stack.aclose()

    # --- state

    @property
    def http_address(self) -> str:
        """The address of HTTP triggers. It stays while the fabric drains and the gateway has closed already."""
        return f"http://{self._http[0]}:{self._port}" if self._listening else ""

    @property
    def functions(self) -> Mapping[FunctionKey, FunctionProcess]:
        return self.function_processes.by_key

    @property
    def flows(self) -> Mapping[FlowKey, RunningTrigger]:
        return self.running_flows.running

    @property
    def held(self) -> int:
        """The number of events that were taken and are not settled."""
        return self.running_flows.held

    def idle_reason(self, trigger: TriggerResource) -> tuple[str, str]:
        """Why the trigger has no flow: the reason and a message."""
        if self._stopping:
            return "Stopping", "the fabric stops, and this trigger has finished"
        return without_flow(trigger.spec)

    def not_ready(self) -> list[str]:
        """A line for each flow that is not ready, except suspended ones."""
        return [
            f"{running.resource.name} → {running.flow.identity.function}: {condition.reason}"
            for running in self.flows.values()
            for condition in running.flow.status().conditions[:1]
            if condition.status != "True" and not running.flow.trigger.suspend
        ]

    def most_attempts(self, seen: Seen) -> int | None:
        """How many attempts an event of this trigger has; None if they have no limit."""
        found = (one for one in self.triggers.values() if (one.namespace, one.kind) == (seen.namespace, seen.kind))
        return next((one.spec.delivery.attempts for one in found if one.name == seen.trigger), None)

    # --- actions

    async def apply(self, desired: DesiredState, grace_seconds: float = 30) -> None:
        """Runs the desired state. Leaves unchanged parts alone, and drains triggers before it removes them.

        Raises SourceError if the gateway cannot listen on its port.
        """
        async with self._applying:
            if self._stopping:
                return
            self.desired = desired
            await self._start_brokers(desired)
            self.function_processes.apply(desired.functions, desired.environment)
            await self._apply_triggers(desired, grace_seconds)
            if not self._listening:
                await self._listen()
            await self.function_processes.remove_all_but({(found.namespace, found.name) for found in desired.functions})

    async def stop(self, grace_seconds: float) -> None:
        """Drains: takes no new events, lets those in progress settle within the grace period, gives the rest back."""
        self._stopping = True
        self.function_processes.cancel_preparing()
        await asyncio.gather(
            self.gateway.close(grace_seconds),
            self.running_flows.stop(grace_seconds),
        )
        await self.function_processes.stop()

    def hurry(self) -> None:
        """Ends draining at once: unsettled events go back to their source."""
        self.running_flows.hurry()

    async def suspend(self, uid: str, suspended: bool) -> None:
        """Suspends or resumes a trigger. A suspended trigger stays suspended across restarts."""
        state = self.store.state(uid, "")
        if suspended:
            await state.put("suspended", b"1")
        else:
            await state.delete("suspended")
        await self.apply(self.desired)
        if not suspended:
            for running in self.running_flows.of(uid):
                running.flow.resume()

    # --- the steps of apply

    async def _start_brokers(self, desired: DesiredState) -> None:
        needed = {kind for trigger in desired.triggers for kind in brokers_needed(trigger.spec)}
        await asyncio.gather(*(self._start_broker(kind) for kind in sorted(needed - self.brokers.keys())))

    async def _start_broker(self, kind: str) -> None:
        try:
            broker = await self._stack.enter_async_context(BROKERS[kind](self.state))
        except BrokerFailed as error:
            self._notice(str(error))
            return
        self.brokers[kind] = broker
        self._default_addresses[kind] = [broker.address]

    async def _apply_triggers(self, desired: DesiredState, grace_seconds: float) -> None:
        self.triggers = {trigger.uid: trigger for trigger in desired.triggers}
        self._hold_routes(desired.triggers)
        targets: dict[FlowKey, TriggerResource] = {}
        for trigger in desired.triggers:
            effective = trigger
            if trigger.spec.suspend:
                effective = replace(trigger, suspended_by="its file sets spec.suspend to true")
            elif await self._was_suspended(trigger.uid):
                by = f"`kubeirq suspend` suspended it; `kubeirq resume {trigger.name}` continues it"
                suspended = trigger.spec.model_copy(update={"suspend": True})
                effective = replace(trigger, spec=suspended, suspended_by=by)
            functions = [
                (found.name, found.labels) for found in desired.functions if found.namespace == trigger.namespace
            ]
            for function in functions_of(trigger.spec, functions):
                targets[trigger.uid, function] = effective
        await self.running_flows.apply(targets, grace_seconds)

    def _hold_routes(self, triggers: Sequence[TriggerResource]) -> None:
        """Keeps each route for the trigger that owns it, also while that trigger does not run."""
        present = {(trigger.kind, trigger.namespace, trigger.name): trigger for trigger in triggers}
        for key in self._arrived.keys() - present.keys():
            self._ownership.remove(key)
            self.gateway.hold(self._arrived.pop(key)[0], ())
        for key, trigger in present.items():
            _, number = self._arrived.setdefault(key, (trigger.uid, next(self._numbers)))
            metadata = {"creationTimestamp": f"{number:09}", "namespace": trigger.namespace, "name": trigger.name}
            self._ownership.update(key, {"metadata": metadata}, trigger.spec)
        for key, trigger in present.items():
            self.gateway.hold(trigger.uid, self._ownership.routes_of(key))

    async def _was_suspended(self, uid: str) -> bool:
        return await self.store.state(uid, "").get("suspended") is not None

    async def _listen(self) -> None:
        """Opens the port after the routes exist: a client that was connected before sees a restart, and not a 404."""
        routed = [running for running in self.flows.values() if _has_route(running.flow.trigger)]
        for _ in range(_ROUTES_ATTEMPTS):
            if all(running.flow.connected[0] for running in routed):
                break
            await asyncio.sleep(_ROUTES_ATTEMPT_SECONDS)
        await self.gateway.start(*self._http)
        self._port = self.gateway.port
        self._listening = True


def _memory_limit() -> int:
    try:
        return memory_limit()
    except ValueError as error:
        raise SourceError("SettingInvalid", f"{error}; correct or unset {VARIABLE}") from None


def _has_route(spec: TriggerSource) -> bool:
    return "methods" in type(spec).model_fields and not spec.suspend


def _no_secret(namespace: str, reference: SecretRef) -> str:
    raise AssertionError("a secret was requested before the first apply")
