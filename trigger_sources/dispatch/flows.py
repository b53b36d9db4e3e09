"""The flows of one process: starts, changes and ends them, so that the wanted triggers run."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.held import Seen
from trigger_sources.dispatch.host import Host
from trigger_sources.source import TriggerSource
from trigger_sources.transport.resolver import resolver

log = logging.getLogger(__name__)

FlowKey = tuple[str, str]  # trigger's uid, function


@dataclass(frozen=True)
class TriggerResource:
    """A trigger as a person declared it."""

    kind: str
    namespace: str
    name: str
    spec: TriggerSource
    uid: str
    example: str = field(default="", compare=False)  # data to try it with
    secrets: str = ""  # changes with the content of the Secrets that the trigger refers to


@dataclass
class RunningTrigger:
    """One flow and what belongs to it."""

    resource: TriggerResource
    flow: Flow
    task: asyncio.Task[None]
    own_gate: Gate | None = None  # of a plain URL


class Flows:
    """Made, used and stopped in one event loop. `gate(namespace, name)` is the way to a function.

    `may_start(trigger)` returns a function that says, before each call, whether this process may still act for that
    trigger; None where no other process can.
    """

    def __init__(
        self,
        host: Host,
        gate: Callable[[str, str], Gate],
        *,
        observe: Callable[[Seen], None] | None = None,
        may_start: Callable[[TriggerResource], Callable[[], bool] | None] = lambda _: None,
    ) -> None:
        self.running: dict[FlowKey, RunningTrigger] = {}
        self._host = host
        self._gate = gate
        self._observe = observe
        self._may_start = may_start

    async def apply(
        self, wanted: Mapping[FlowKey, TriggerResource], grace_seconds: float, *, uid: str | None = None
    ) -> None:
        """Makes the running flows the wanted ones: those of all triggers, or of the one with this uid.

        An unchanged flow is not touched. A flow that ends or changes is drained first.
        """
        gone = [
            key
            for key, running in self.running.items()
            if uid in (None, key[0]) and wanted.get(key) != running.resource
        ]
        await asyncio.gather(*(self.end(key, grace_seconds) for key in gone))
        for key, trigger in wanted.items():
            if key not in self.running:
                self._start(key, trigger)

    async def end(self, key: FlowKey, grace_seconds: float) -> None:
        """Drains and closes a flow; returns once nothing of it acts any more. Does nothing if it has ended already.

        A caller that is cancelled leaves the flow draining; another `end` waits for it.
        """
        running = self.running.get(key)
        if running is None:
            return
        stopping = asyncio.create_task(running.flow.stop(grace_seconds))
        try:
            await asyncio.wait({stopping, running.task}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({running.task})
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
        if self.running.get(key) is running:
            del self.running[key]
        if running.own_gate is not None:
            await running.own_gate.aclose()

    async def stop(self, grace_seconds: float) -> None:
        """Drains and closes all of them."""
        await asyncio.gather(*(self.end(key, grace_seconds) for key in list(self.running)))

    def hurry(self) -> None:
        """Ends draining at once: events that are not settled go back to their source."""
        for running in self.running.values():
            running.task.cancel()

    def of(self, uid: str) -> list[RunningTrigger]:
        """The flows of a trigger: one for each of its functions."""
        return [running for (found, _), running in self.running.items() if found == uid]

    @property
    def held(self) -> int:
        """Events taken and not settled."""
        return sum(running.flow.dispatcher.held for running in self.running.values())

    def _start(self, key: FlowKey, trigger: TriggerResource) -> None:
        target = trigger.spec.target
        assert target is not None
        resolve = resolver(self._host.reach, trigger.namespace)
        own_gate = Gate(key[1], target.url, resolve=resolve) if target.url is not None else None
        flow = Flow(
            trigger.spec,
            kind=trigger.kind,
            namespace=trigger.namespace,
            name=trigger.name,
            uid=trigger.uid,
            function=key[1],
            gate=own_gate or self._gate(trigger.namespace, key[1]),
            host=self._host,
            gate_of=lambda name: self._gate(trigger.namespace, name),
            observe=self._observe,
            may_start=self._may_start(trigger),
        )
        task = asyncio.create_task(flow.run(), name=f"flow {trigger.uid} {key[1]}")
        task.add_done_callback(_report_fault)
        self.running[key] = RunningTrigger(trigger, flow, task, own_gate)


def functions_of(spec: TriggerSource, functions: Iterable[tuple[str, Mapping[str, str]]]) -> list[str]:
    """The names of the functions that a trigger calls.

    `functions`: name and labels of each function of its namespace, for a selector.
    """
    target = spec.target
    assert target is not None
    if target.function is not None:
        return [target.function]
    if target.url is not None:
        return [urlsplit(target.url).netloc]
    assert target.selector is not None
    return [name for name, labels in functions if target.selector.matches(dict(labels))]


def _report_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("flow ended by a fault", extra={"flow": task.get_name()}, exc_info=task.exception())
