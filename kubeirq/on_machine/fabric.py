"""The fabric on one machine: functions as processes, a flow for each trigger and function, its own brokers."""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

from controllers.functions.resource import FunctionSpec
from kubeirq.on_machine.brokers import Broker, BrokerFailed, kafka_broker, nats_server
from kubeirq.on_machine.environments import NotInstalled
from kubeirq.on_machine.log_files import FunctionLogs
from kubeirq.on_machine.processes import FunctionProcess
from kubeirq.on_machine.programs import BadFunction, discard_unused, program_for
from kubeirq.output.function_logs import LogLine
from trigger_sources.dispatch.flows import FlowKey, Flows, RunningTrigger, TriggerResource, functions_of
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.held import Seen
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http.gateway import Gateway
from trigger_sources.source import SourceError, TriggerSource
from trigger_sources.spec import SecretRef
from trigger_sources.stores.sqlite import Store

log = logging.getLogger(__name__)

_BROKERS = {"kafka": kafka_broker, "nats": nats_server}

_ROUTES_TRIES = 200
_NOWHERE = "http://127.0.0.1:9/"  # where a gate points before its function has an address


@dataclass(frozen=True)
class FunctionResource:
    """A Function as it is in a file."""

    namespace: str
    name: str
    spec: FunctionSpec
    base: Path  # paths in the spec are relative to it
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """All that is to run, and how a secret is found."""

    functions: Sequence[FunctionResource]
    triggers: Sequence[TriggerResource]
    secret: Callable[[str, SecretRef], str]  # raises MissingSecret
    environment: Callable[[FunctionResource], Mapping[str, str]]  # spec.env, resolved; raises MissingSecret


FunctionKey = tuple[str, str]  # namespace, name


class Fabric:
    """Open it, then `apply` what is wanted, as often as that changes. Lives in one event loop."""

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
        self.functions: dict[FunctionKey, FunctionProcess] = {}
        self.triggers: dict[str, TriggerResource] = {}
        self.brokers: dict[str, Broker] = {}
        self.broker_problems: dict[str, str] = {}
        self.gateway = Gateway()
        self._http = http_host, http_port
        self._observe = observe
        self._show_line = show_line
        self._logs = FunctionLogs(state)
        self._notice = notice
        self._debug = debug or {}
        self._gates: dict[FunctionKey, Gate] = {}
        self._preparing: dict[FunctionKey, asyncio.Task[None]] = {}
        self._suspended: set[str] = set()
        self._defaults: dict[str, list[str]] = {}
        self.wanted = Wanted((), (), _no_secret, lambda _: {})
        self._applying = asyncio.Lock()
        self._listening = False
        self._stopping = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises SourceError when the store cannot be had."""
        async with AsyncExitStack() as stack:
            self.store = await stack.enter_async_context(Store.open(self.state / "kubeirq.sqlite"))
            self.host = LocalHost(
                replica=self.replica,
                store=self.store,
                gateway=self.gateway,
                secrets=lambda namespace, reference: self.wanted.secret(namespace, reference),
                defaults=self._defaults,
            )
            self.running_flows = Flows(self.host, self._gate, observe=self._observe)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self.stop(0)
        finally:
            self._logs.close()
            await self._stack.aclose()

    @property
    def http_address(self) -> str:
        return f"http://{self._http[0]}:{self.gateway.port}" if self._listening else ""

    # --- what is wanted

    async def apply(self, wanted: Wanted, grace_seconds: float = 30) -> None:
        """Makes what runs what is wanted. What did not change is not touched; what goes away is drained first.

        Raises SourceError when the gateway's port cannot be had.
        """
        async with self._applying:
            if self._stopping:
                return
            self.wanted = wanted
            await self._start_brokers(wanted)
            self._apply_functions(wanted.functions)
            await self._apply_triggers(wanted, grace_seconds)
            if not self._listening:
                await self._listen()
            await self._remove_functions({(found.namespace, found.name) for found in wanted.functions})

    async def stop(self, grace_seconds: float) -> None:
        """Drains: nothing new is taken, what was taken settles within the grace, the rest goes back."""
        self._stopping = True
        for task in self._preparing.values():
            task.cancel()
        await asyncio.gather(
            self.gateway.close(grace_seconds),
            self.running_flows.stop(grace_seconds),
        )
        await asyncio.gather(*self._preparing.values(), return_exceptions=True)
        await asyncio.gather(*(process.stop() for process in self.functions.values()))
        await asyncio.gather(*(gate.aclose() for gate in self._gates.values()))
        self.functions.clear()
        self._gates.clear()

    async def _listen(self) -> None:
        """Opens the port once the routes are there: a caller of the fabric before sees a restart, not a 404."""
        routed = [running for running in self.flows.values() if _has_route(running.flow.trigger)]
        for _ in range(_ROUTES_TRIES):
            if all(running.flow.connected[0] for running in routed):
                break
            await asyncio.sleep(0.01)
        await self.gateway.start(*self._http)
        self._listening = True

    @property
    def flows(self) -> Mapping[FlowKey, RunningTrigger]:
        return self.running_flows.running

    def hurry(self) -> None:
        """Ends draining at once: what is not settled goes back to its source."""
        self.running_flows.hurry()

    @property
    def held(self) -> int:
        """Events taken and not settled."""
        return self.running_flows.held

    def not_ready(self) -> list[str]:
        """A line for each flow that should flow and does not."""
        return [
            f"{running.resource.name} → {running.flow.identity.function}: {condition.reason}"
            for running in self.flows.values()
            for condition in running.flow.status().conditions[:1]
            if condition.status != "True" and not running.flow.trigger.suspend
        ]

    def is_suspended(self, uid: str) -> bool:
        return uid in self._suspended

    async def suspend(self, uid: str, suspended: bool) -> None:
        """Stops or resumes a trigger, until it is told otherwise: a restart changes nothing."""
        state = self.store.state(uid, "")
        if suspended:
            await state.put("suspended", b"1")
        else:
            await state.delete("suspended")
        await self.apply(self.wanted)
        if not suspended:
            for running in self.running_flows.of(uid):
                running.flow.resume()

    # --- functions

    def _apply_functions(self, functions: Sequence[FunctionResource]) -> None:
        for function in functions:
            key = (function.namespace, function.name)
            if key not in self.functions:
                self.functions[key] = FunctionProcess(
                    function.name, self._gate(*key), partial(self._printed, function.namespace)
                )
            if (before := self._preparing.pop(key, None)) is not None:
                before.cancel()
            self._preparing[key] = asyncio.create_task(self._prepare(function, self.functions[key]))

    def _printed(self, namespace: str, line: LogLine) -> None:
        self._logs.write(namespace, line.function, line.text)
        self._show_line(line)

    async def _prepare(self, function: FunctionResource, process: FunctionProcess) -> None:
        """Assembles the code and installs dependencies beside everything else, then runs it, if it changed."""
        try:
            program = await program_for(
                function.spec,
                namespace=function.namespace,
                name=function.name,
                base=function.base,
                state=self.state,
                environment=self.wanted.environment(function),
                show=self._notice,
                debug_port=self._debug.get(function.name),
            )
        except (BadFunction, NotInstalled, SourceError, OSError) as error:
            if process.last_error != str(error):
                self._notice(f"{function.name}: {error}")
            process.failed(str(error))
            return
        if program != process.wanted:
            discard_unused(program.folder.parent, [program.folder, *process.folders()])
            process.run(program)

    async def _remove_functions(self, wanted: set[FunctionKey]) -> None:
        for key in [key for key in self.functions if key not in wanted]:
            if (task := self._preparing.pop(key, None)) is not None:
                task.cancel()
            await self.functions.pop(key).stop()
            self._gates[key].close(f"there is no Function {key[1]!r}")

    def _gate(self, namespace: str, name: str) -> Gate:
        """The way to that function, also while there is none: its events wait."""
        key = (namespace, name)
        if key not in self._gates:
            self._gates[key] = Gate(name, _NOWHERE)
            self._gates[key].close(f"there is no Function {name!r}")
        return self._gates[key]

    # --- triggers

    async def _apply_triggers(self, wanted: Wanted, grace_seconds: float) -> None:
        self.triggers = {trigger.uid: trigger for trigger in wanted.triggers}
        targets: dict[FlowKey, TriggerResource] = {}
        for trigger in wanted.triggers:
            suspended = trigger.spec.suspend or await self._was_suspended(trigger.uid)
            effective = trigger
            if suspended and not trigger.spec.suspend:
                spec = trigger.spec.model_copy(update={"suspend": True})
                effective = replace(trigger, spec=spec)
            functions = [
                (found.name, found.labels) for found in wanted.functions if found.namespace == trigger.namespace
            ]
            for function in functions_of(trigger.spec, functions):
                targets[trigger.uid, function] = effective
        await self.running_flows.apply(targets, grace_seconds)

    async def _was_suspended(self, uid: str) -> bool:
        found = await self.store.state(uid, "").get("suspended") is not None
        (self._suspended.add if found else self._suspended.discard)(uid)
        return found

    # --- brokers

    async def _start_brokers(self, wanted: Wanted) -> None:
        needed = {kind for trigger in wanted.triggers for kind in brokers_needed(trigger.spec)}
        await asyncio.gather(*(self._start_broker(kind) for kind in sorted(needed - self.brokers.keys())))

    async def _start_broker(self, kind: str) -> None:
        try:
            broker = await self._stack.enter_async_context(_BROKERS[kind](self.state))
        except BrokerFailed as error:
            self.broker_problems[kind] = str(error)
            self._notice(str(error))
            return
        self.broker_problems.pop(kind, None)
        self.brokers[kind] = broker
        self._defaults[kind] = [broker.address]


def _has_route(spec: TriggerSource) -> bool:
    return "methods" in type(spec).model_fields and not spec.suspend


def brokers_needed(spec: TriggerSource) -> set[str]:
    """The kinds of brokers that the trigger uses and names no address of."""
    fields = type(spec).model_fields
    needed = {kind for kind, name in (("kafka", "brokers"), ("nats", "servers")) if name in fields}
    target = spec.reply.target if spec.reply is not None else None
    if target is not None:
        needed |= {kind for kind, named in target.addresses.items() if kind in _BROKERS and not named}
    return {kind for kind in needed if not spec.addresses.get(kind)}


def _no_secret(namespace: str, reference: SecretRef) -> str:
    raise AssertionError("asked for a secret before anything was applied")
