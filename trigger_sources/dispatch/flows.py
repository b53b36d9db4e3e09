"""The flows of one process: starts, changes and ends them, so that the wanted triggers run."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from trigger_sources.dispatch.counters import Counters
from trigger_sources.dispatch.flow import SUSPENDED_BY_SPEC, Flow, Takes
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.held import Seen
from trigger_sources.dispatch.host import Host
from trigger_sources.source import TriggerSource
from trigger_sources.transport.resolver import resolver

log = logging.getLogger(__name__)

FlowKey = tuple[str, str]  # trigger's uid, function

_TAKE_OVER_SECONDS = 30.0  # for a flow to serve in place of its predecessor, or to report why it cannot


@dataclass(frozen=True)
class TriggerResource:
    """A trigger as a person declared it."""

    kind: str
    namespace: str
    name: str
    spec: TriggerSource
    uid: str
    example: str = field(default="", compare=False)  # data to try it with
    generation: int = field(default=0, compare=False)  # of the object on a cluster; grows with each edit of the spec
    suspended_by: str = SUSPENDED_BY_SPEC  # if it is suspended; for a condition
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

    A changed trigger that serves a route gets its new flow at once. When that one serves the route, the old flow takes
    no more and ends with its last call, so that an edit refuses and delays no caller. Every other flow is drained
    before its successor starts, so that two of them never take the same events.

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
        self._of: dict[str, dict[FlowKey, RunningTrigger]] = {}  # the same by the trigger's uid
        self._retiring: dict[asyncio.Task[None], RunningTrigger] = {}  # by the task that ends each
        self._counters: dict[FlowKey, Counters] = {}  # they go on when an edit replaces a flow
        self._host = host
        self._gate = gate
        self._observe = observe
        self._may_start = may_start

    async def apply(
        self, wanted: Mapping[FlowKey, TriggerResource], grace_seconds: float, *, uid: str | None = None
    ) -> None:
        """Makes the running flows the wanted ones: those of all triggers, or of the one with this uid.

        An unchanged flow is not touched. A flow that ends or changes is drained first, unless its successor can serve
        beside it.
        """
        ending = []
        for key, running in list((self.running if uid is None else self._of.get(uid, {})).items()):
            trigger = wanted.get(key)
            if trigger == running.resource:
                running.resource = trigger  # it may have another generation
            elif (successor := _successor_of(key, running, wanted)) is not None:
                self._supersede(key, successor, wanted[successor], grace_seconds)
            else:
                ending.append(key)
        gone = [self.running[key].flow for key in ending if key not in wanted]
        await asyncio.gather(*(self.end(key, grace_seconds) for key in ending))
        for flow in gone:
            flow.trigger.forget(flow.context)
            self._counters.pop((flow.identity.uid, flow.identity.function), None)
        for key, trigger in wanted.items():
            if key not in self.running:
                sole = sum(other[0] == key[0] for other in wanted) == 1
                self._start(key, trigger, place=Takes(sole, {name for found, name in ending if found == key[0]}))

    async def end(self, key: FlowKey, grace_seconds: float) -> None:
        """Drains and closes a flow; returns once nothing of it acts any more. Does nothing if it has ended already.

        A caller that is cancelled leaves the flow draining; another `end` waits for it.
        """
        running = self.running.get(key)
        if running is not None:
            await self._stop(running, grace_seconds)
            if self.running.get(key) is running:
                self._remove(key)
        await self._end_retiring([found for found in self._retiring if found.get_name() == key[0]], grace_seconds)

    async def stop(self, grace_seconds: float) -> None:
        """Drains and closes all of them."""
        await asyncio.gather(*(self.end(key, grace_seconds) for key in list(self.running)))
        await self._end_retiring(list(self._retiring), grace_seconds)

    def hurry(self) -> None:
        """Ends draining at once: events that are not settled go back to their source."""
        for running in self.present():
            running.task.cancel()

    def present(self) -> list[RunningTrigger]:
        """All flows: those that run, and those that still settle what they took before their trigger changed."""
        return [*self.running.values(), *self._retiring.values()]

    def of(self, uid: str) -> list[RunningTrigger]:
        """The flows of a trigger: one for each of its functions."""
        return list(self._of.get(uid, {}).values())

    @property
    def held(self) -> int:
        """Events taken and not settled."""
        return sum(running.flow.dispatcher.held for running in self.present())

    def _supersede(self, key: FlowKey, successor: FlowKey, trigger: TriggerResource, grace_seconds: float) -> None:
        """Starts the successor of a flow, which ends when the successor has taken over."""
        old = self._remove(key)
        if successor != key:
            self._counters.pop(key, None)
        earlier = [found.task for found in self._retiring.values() if found.resource.uid == trigger.uid]
        self._start(successor, trigger, [*earlier, old.task])
        task = asyncio.create_task(self._retire(old, self.running[successor].flow, grace_seconds), name=trigger.uid)
        self._retiring[task] = old
        task.add_done_callback(self._retired)

    async def _retire(self, old: RunningTrigger, successor: Flow, grace_seconds: float) -> None:
        try:
            async with asyncio.timeout(_TAKE_OVER_SECONDS):
                await successor.first_report.wait()
        except TimeoutError:
            log.warning("the new spec does not serve yet; the former one ends", extra={"trigger": old.resource.uid})
        await self._host.gateway.until_taken(old.resource.uid, old.flow.number)
        if not old.flow.context.uses_inbox:  # its callers get their answers; no successor waits for the inbox
            grace_seconds += old.resource.spec.delivery.timeout_seconds
        await self._stop(old, grace_seconds)

    def _retired(self, task: asyncio.Task[None]) -> None:
        del self._retiring[task]
        _report_fault(task)

    async def _end_retiring(self, tasks: Sequence[asyncio.Task[None]], grace_seconds: float) -> None:
        """Waits for the end of these flows, which began before. After the grace, they give back what is left."""
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_seconds)
        for task in late:
            self._retiring[task].task.cancel()
        if late:
            await asyncio.wait(late)

    async def _stop(self, running: RunningTrigger, grace_seconds: float) -> None:
        stopping = asyncio.create_task(running.flow.stop(grace_seconds))
        try:
            await asyncio.wait({stopping, running.task}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({running.task})
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
        if running.own_gate is not None:
            await running.own_gate.aclose()

    def _start(
        self,
        key: FlowKey,
        trigger: TriggerResource,
        predecessors: Sequence[asyncio.Task[None]] = (),
        place: Takes | None = None,
    ) -> None:
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
            predecessors=predecessors,
            takes=place,
            counters=self._counters.setdefault(key, Counters()),
            suspended_by=trigger.suspended_by,
        )
        task = asyncio.create_task(flow.run(), name=f"flow {trigger.uid} {key[1]}")
        task.add_done_callback(_report_fault)
        self.running[key] = running = RunningTrigger(trigger, flow, task, own_gate)
        self._of.setdefault(key[0], {})[key] = running

    def _remove(self, key: FlowKey) -> RunningTrigger:
        flows = self._of[key[0]]
        del flows[key]
        if not flows:
            del self._of[key[0]]
        return self.running.pop(key)


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


def without_flow(spec: TriggerSource) -> tuple[str, str]:
    """Reason and message for a trigger that has no flow here, though this process should run it."""
    if spec.target is not None and spec.target.selector is not None:
        return "NoFunction", "its selector matches no Function; label one, or change it"
    return "Starting", "it has not started to read its events yet"


def _successor_of(key: FlowKey, running: RunningTrigger, wanted: Mapping[FlowKey, TriggerResource]) -> FlowKey | None:
    """The wanted flow that can serve beside this one until it has taken over."""
    found = next((other for other in wanted if other[0] == key[0]), None)
    if found is None or not (_serves_beside(running.resource) and _serves_beside(wanted[found])):
        return None
    return found


def _serves_beside(trigger: TriggerResource) -> bool:
    """Whether another flow of the trigger can run at the same time: it serves a route, as replicas do side by side."""
    spec = trigger.spec
    return (
        spec.sharing == "partitioned" and not spec.fan_out and not spec.suspend and spec.route(trigger.name) is not None
    )


def _report_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("flow ended by a fault", extra={"flow": task.get_name()}, exc_info=task.exception())
