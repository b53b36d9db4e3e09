"""The trigger controller: runs the flows of every trigger of its kinds.

It is generic over the kinds, those of plugins too, and level-triggered: a watch event only puts the trigger's key into
the work queue. A source that shares its events out itself, as a consumer group does, runs in every replica. Where order
or a single runner is required, the replicas share the triggers out through Leases.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from controllers.cluster.api import GROUP, VERSION, Api, Object, Refused, plural_of
from controllers.cluster.events import EventRecorder
from controllers.cluster.ignorable_fields import ignorable_fields_of
from controllers.cluster.installations import Installations
from controllers.cluster.operator import Event, Watch
from controllers.cluster.relist import WATCH_PATIENCE_SECONDS, relist
from controllers.cluster.work_queue import WorkQueue
from controllers.functions.status import FUNCTION_LABEL
from controllers.functions.worker_ends import WorkerEnd
from controllers.triggers.egress_policy import egress_rejection
from controllers.triggers.exposed_objects import ExposedObjects, is_exposed
from controllers.triggers.gates import Gates
from controllers.triggers.ownership import Key
from controllers.triggers.peers import Peers
from controllers.triggers.secret_watches import SecretWatches
from controllers.triggers.secrets import Secrets
from controllers.triggers.served import ServedTriggers
from controllers.triggers.status import TriggerStatus
from controllers.triggers.status_reporter import StatusReporter
from controllers.triggers.trigger_cache import CachedTrigger, TriggerCache, key_of, secrets_of
from controllers.triggers.trigger_leases import SingleReplica, TriggerLeases, needs_lease
from controllers.triggers.worker_ends import record_end
from trigger_sources.dispatch.counters import Reading
from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.flows import FlowKey, Flows, TriggerResource, functions_of
from trigger_sources.dispatch.host import Host
from trigger_sources.registry import source_of
from trigger_sources.source import SourceError

log = logging.getLogger(__name__)

RESYNC_SECONDS = 300.0  # finds everything that a watch missed
_INCOMPLETE_SECONDS = 30.0  # the same, after a resync in which the server refused to list a kind
_CONCURRENT_RECONCILES = 64  # most of them wait for a drain
_LOST_LEASE_GRACE_SECONDS = 4.0  # for the drain of a trigger that another replica is about to take over


class TriggerController:
    """Lives in one event loop. `kinds` are in the registry. You may set `leases` until the controller runs."""

    def __init__(
        self,
        api: Api,
        kinds: Sequence[str],
        host: Host,
        gates: Gates,
        secrets: Secrets,
        secret_watches: SecretWatches,
        *,
        leases: TriggerLeases | None = None,
        exposed_objects: ExposedObjects | None = None,
        gateway_url: str | None = None,
        served: ServedTriggers | None = None,
        peers: Peers | None = None,
        namespace: str | None = None,
        release: str = "",
        grace_seconds: float = 30.0,
    ) -> None:
        self.leases: TriggerLeases = leases or SingleReplica()
        self.synced = asyncio.Event()  # set once every trigger that existed at the start has been reconciled
        self.flows = Flows(host, gates.of, may_start=self._may_start)
        self.queue: WorkQueue[Key] = WorkQueue(
            self.reconcile,
            name="triggers",
            workers=_CONCURRENT_RECONCILES,
            expected=(SourceError, Refused, OSError, TimeoutError),
        )
        self._api = api
        self._host = host
        self._kinds = tuple(kinds)
        self._gates = gates
        self._secrets = secrets
        self._secret_watches = secret_watches
        secret_watches.on_change = self._secrets_changed
        gates.on_worker_end = self._worker_ended
        self._events = EventRecorder(api, "kubeirq")
        self._recording: set[asyncio.Task[None]] = set()
        self._exposed_objects = exposed_objects
        self._namespace = namespace
        self._grace_seconds = grace_seconds
        self._triggers = TriggerCache(api, lambda: self.leases, self.queue.add, self._forget)
        self._installations = Installations(api, release, time.monotonic)
        self._statuses = StatusReporter(
            api,
            self._triggers,
            self.flows,
            gates,
            lambda uid: self.leases.holds(uid),
            self.synced,
            self._installations,
            exposed_objects=exposed_objects,
            gateway_url=gateway_url,
            served=served,
            peers=peers,
        )
        self._listed = asyncio.Event()  # set once everything was listed: before, nobody knows who owns a route
        self._applied: dict[Key, str] = {}  # the uid of each trigger whose flows run
        self._starting: set[asyncio.Task[None]] = set()  # each waits for the first report of a flow

    # --- watches and resync

    def watches(self) -> list[Watch]:
        """The watches of the triggers, of Functions and their EndpointSlices, and of the exposed objects."""
        found = [Watch(source_of(kind).api_group, VERSION, plural_of(kind), self._on_trigger) for kind in self._kinds]
        found.append(Watch(GROUP, VERSION, "functions", self._on_function, metadata_only=True))
        found.append(Watch("discovery.k8s.io", "v1", "endpointslices", self._on_endpoint_slice, FUNCTION_LABEL))
        if self._exposed_objects is not None:
            found += self._exposed_objects.watches(lambda owner: self.queue.add(("HTTPTrigger", *owner)))
        return found

    async def run(self) -> None:
        """Runs until it is cancelled, then drains the flows. No trigger runs before everything is listed."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._resync_periodically())
                await self._listed.wait()
                group.create_task(self.queue.run())
                group.create_task(self._statuses.queue.run())
                group.create_task(self._statuses.poll())
                group.create_task(self._statuses.compare_body_limits())
                group.create_task(self._installations.contend(self._owned_by_others))
        finally:
            await self._host.gateway.serve_late_requests()
            await asyncio.gather(self._host.gateway.close(self._grace_seconds), self.flows.stop(self._grace_seconds))

    async def resync(self) -> bool:
        """Lists everything, and enqueues every trigger. Returns whether all kinds of objects could be listed."""
        if self._namespace is None:  # the rights of one namespace include no definitions
            definitions = {kind: f"{plural_of(kind)}.{source_of(kind).api_group}" for kind in self._kinds}
            ignorable = {kind: await ignorable_fields_of(self._api, name) for kind, name in definitions.items()}
            self._triggers.may_ignore(ignorable)
        self._triggers.begin_list()
        self._gates.begin_list()
        listed: list[Object] = []
        for kind in self._kinds:
            api_version = f"{source_of(kind).api_group}/{VERSION}"
            asked = relist(
                self._api,
                api_version,
                kind,
                self._namespace,
                None,
                cached=self._cached_object,
                patience_seconds=WATCH_PATIENCE_SECONDS,
            )
            listed += [found async for found in asked]
        functions = await self._api.list(f"{GROUP}/{VERSION}", "Function", self._namespace, metadata_only=True)
        slices = await self._api.list("discovery.k8s.io/v1", "EndpointSlice", self._namespace, {FUNCTION_LABEL: ""})
        self._gates.replace(functions, slices)
        is_whole = self._exposed_objects is None or await self._exposed_objects.refresh()
        self._triggers.replace(listed)
        for key in (*self._triggers, *self._applied):
            self.queue.add_for_resync(key)
        await self._gates.retain(self._called_functions())
        await self._secret_watches.retain(self._triggers.namespaces_with_secrets)
        return is_whole

    def _cached_object(self, found: Object) -> Object | None:
        cached = self._triggers.get(key_of(found))
        return None if cached is None else cached.object

    def _called_functions(self) -> set[tuple[str, str]]:
        """Namespace and name of each function that a cached trigger or a running flow calls."""
        flows = self.flows.present()
        called = {(running.resource.namespace, running.flow.identity.function) for running in flows}
        specs = [(trigger.namespace, trigger.spec) for _, trigger in self._triggers.items() if trigger.spec is not None]
        specs += [(running.resource.namespace, running.resource.spec) for running in flows]
        for namespace, spec in specs:
            called |= {(namespace, name) for name in functions_of(spec, self._gates.functions(namespace))}
            if spec.reply is not None and spec.reply.function is not None:
                called.add((namespace, spec.reply.function))
        return called

    def _worker_ended(self, function: tuple[str, str], end: WorkerEnd) -> None:
        edition = self._gates.edition(*function)
        if edition is not None:
            task = asyncio.create_task(record_end(self._events, *function, edition[0], end))
            self._recording.add(task)
            task.add_done_callback(self._recording.discard)

    async def _resync_periodically(self) -> None:
        said = ""
        while True:
            try:
                is_whole = await self.resync()
                self._listed.set()
                if not self.synced.is_set():
                    await self.queue.wait_until_idle()
                    self.synced.set()
            except (Refused, OSError, TimeoutError) as error:
                if said != (said := str(error) or repr(error)):
                    log.warning("resync failed", extra={"problem": said})
                await asyncio.sleep(5)
            else:
                said = ""
                await asyncio.sleep(RESYNC_SECONDS if is_whole else _INCOMPLETE_SECONDS)

    def _on_trigger(self, event: Event) -> None:
        if self._triggers.observe(event):
            self.queue.add(key_of(event["object"]))

    def _on_function(self, event: Event) -> None:
        function = event["object"]
        if self._gates.observe_function(function, deleted=event["type"] == "DELETED"):
            for key in self._triggers.selecting(function["metadata"]["namespace"]):
                self.queue.add(key)

    def _on_endpoint_slice(self, event: Event) -> None:
        self._gates.observe_slice(event["object"], deleted=event["type"] == "DELETED")

    def _secrets_changed(self, namespace: str, names: Collection[str]) -> None:
        for key in self._triggers.referring(namespace, names):
            self.queue.add(key)

    def _forget(self, key: Key) -> None:
        if self._exposed_objects is not None:
            self._exposed_objects.forget(key[1:])

    # --- Leases

    def leases_changed(self, concerned: Callable[[str], bool] = lambda _: True) -> None:
        """Enqueues the triggers with these uids after this replica acquired or lost their Lease."""
        for key, trigger in self._triggers.items():
            if concerned(trigger.uid):
                if trigger.spec is not None and not self.leases.holds(trigger.uid):
                    trigger.written = None  # from now on another replica writes it
                self.queue.add(key)

    async def drain(self, concerned: Callable[[str], bool]) -> None:
        """Ends the flows that need a Lease, of the triggers with these uids: another replica is about to run them."""
        triggers = [
            trigger
            for _, trigger in self._triggers.items()
            if concerned(trigger.uid) and trigger.spec is not None and needs_lease(trigger.spec)
        ]
        results = await asyncio.gather(
            *(self._apply_flows(trigger, _LOST_LEASE_GRACE_SECONDS) for trigger in triggers), return_exceptions=True
        )
        for trigger, problem in zip(triggers, results, strict=True):
            if isinstance(problem, BaseException):  # logged after the drains of the other triggers
                log.error("drain failed", extra={"trigger": trigger.uid}, exc_info=problem)

    def _may_start(self, trigger: TriggerResource) -> Callable[[], bool] | None:
        if not needs_lease(trigger.spec) or isinstance(self.leases, SingleReplica):
            return None
        uid = trigger.uid
        return lambda: self.leases.holds(uid)

    def may_take(self, uid: str) -> bool:
        """Whether this replica takes the trigger's events from the fabric's store. With ordering, one replica does."""
        trigger = self._triggers.by_uid(uid)
        if trigger is None or trigger.spec is None:
            return False
        return trigger.spec.lanes == "none" or self.leases.holds(uid)

    # --- flows

    async def reconcile(self, key: Key) -> None:
        """Brings the flows and the exposed object of one trigger to their desired state."""
        trigger = self._triggers.get(key)
        before = self._applied.get(key)
        if before is not None and (trigger is None or trigger.uid != before):
            self._host.gateway.hold(before, ())
            await self.flows.apply({}, self._grace_seconds, uid=before)
            del self._applied[key]
        if trigger is None:
            return
        self._applied[key] = trigger.uid
        if trigger.spec is not None and secrets_of(trigger.spec):
            await self._secret_watches.begin(trigger.namespace)
        await self._apply_flows(trigger, self._grace_seconds)
        self._statuses.queue.add(key)
        if self._installations.other(trigger.object) is not None:
            return
        if self._exposed_objects is not None and trigger.spec is not None and self.leases.holds(trigger.uid):
            generation: int = trigger.object["metadata"]["generation"]
            try:
                await self._exposed_objects.reconcile(trigger.object, trigger.spec)
            finally:  # the status shows a refusal
                trigger.applied = generation
                self._statuses.queue.add(key)

    def _owned_by_others(self) -> list[Object]:
        """The triggers of other installations that this replica would run."""
        return [
            trigger.object
            for _, trigger in self._triggers.items()
            if self._installations.other(trigger.object) is not None and self.leases.holds(trigger.uid)
        ]

    def _writes_exposed(self, trigger: CachedTrigger) -> bool:
        """Whether this replica writes an Ingress or HTTPRoute for the trigger, in place of a flow."""
        return self._exposed_objects is not None and trigger.spec is not None and is_exposed(trigger.spec)

    async def _apply_flows(self, trigger: CachedTrigger, grace_seconds: float) -> None:
        async with trigger.applying:
            generation: int = trigger.object["metadata"]["generation"]
            wanted = self._desired_flows(trigger)
            key = key_of(trigger.object)
            if self._triggers.get(key) is trigger:
                self._host.gateway.hold(trigger.uid, self._triggers.ownership.routes_of(key))
            if trigger.spec is not None and needs_lease(trigger.spec) and not self.leases.holds(trigger.uid):
                grace_seconds = min(grace_seconds, _LOST_LEASE_GRACE_SECONDS)  # `reconcile` may come before `drain`
            before = {running.flow.number for running in self.flows.of(trigger.uid)}
            await self.flows.apply(wanted, grace_seconds, uid=trigger.uid)
            started = [running.flow for running in self.flows.of(trigger.uid) if running.flow.number not in before]
            if started or len(before) != len(self.flows.of(trigger.uid)):
                trigger.applied_at = time.monotonic()
            for flow in started:
                task = asyncio.create_task(self._show_when_reported(key, flow))
                self._starting.add(task)
                task.add_done_callback(self._starting.discard)
            if not self._writes_exposed(trigger):
                trigger.applied = generation

    async def _show_when_reported(self, key: Key, flow: Flow) -> None:
        """An edit is Ready as soon as its flow serves, not at the next poll of the statuses."""
        await flow.first_report.wait()
        self._statuses.queue.add(key)

    def _desired_flows(self, trigger: CachedTrigger) -> dict[FlowKey, TriggerResource]:
        """The flows of the trigger that should run in this process. Sets the trigger's rejection."""
        spec, metadata = trigger.spec, trigger.object["metadata"]
        if spec is None or self._triggers.get(key_of(trigger.object)) is not trigger:
            return {}
        if (other := self._installations.other(trigger.object)) is not None:
            trigger.rejection = self._installations.rejection(other)
            return {}
        functions = functions_of(spec, self._gates.functions(trigger.namespace))
        trigger.rejection = (
            _deletion(metadata) or egress_rejection(self._host.reach, trigger.object, spec) or self._lost_claim(trigger)
        )
        if trigger.rejection is not None or is_exposed(spec):
            return {}
        if len(functions) > 1 and not spec.fan_out:
            kind, names = trigger.object["kind"], ", ".join(sorted(functions))
            message = f"spec.functionSelector: a {kind} calls one function; these match: {names}"
            trigger.rejection = ("SeveralFunctions", message)
            return {}
        if needs_lease(spec) and not self.leases.holds(trigger.uid):
            return {}
        resource = TriggerResource(
            kind=trigger.object["kind"],
            namespace=trigger.namespace,
            name=metadata["name"],
            spec=spec,
            uid=trigger.uid,
            secrets=self._secrets.versions(trigger.namespace, secrets_of(spec)),
            generation=metadata["generation"],
        )
        return {(trigger.uid, function): resource for function in functions}

    def _lost_claim(self, trigger: CachedTrigger) -> tuple[str, str] | None:
        """The rejection of a trigger with a claim that another trigger owns."""
        conflict = self._triggers.ownership.conflict_of(key_of(trigger.object))
        if conflict is None:
            return None
        claim, (kind, namespace, name) = conflict
        return "Taken", f"spec: {claim} is served by {kind} {namespace}/{name} already; change one of them"

    # --- for the store, metrics and the admin API

    def status_of(self, uid: str) -> TriggerStatus:
        """The status of a trigger, which has its state. Raises SourceError if the trigger is deleted."""
        trigger = self._triggers.by_uid(uid)
        if trigger is None:
            raise SourceError("TriggerGone", "the trigger was deleted")
        return trigger.status

    def readings(self) -> Iterator[Reading]:
        """The counters of all flows, for metrics."""
        return (running.flow.reading() for running in self.flows.running.values())

    def triggers(self) -> Mapping[str, TriggerResource]:
        """All triggers with a valid spec, by uid, for the admin API."""
        return {
            trigger.uid: TriggerResource(key[0], key[1], key[2], trigger.spec, trigger.uid)
            for key, trigger in self._triggers.items()
            if trigger.spec is not None
        }

    def idle_reason(self, trigger: TriggerResource) -> tuple[str, str]:
        """Reason and message for a trigger without a flow in this replica."""
        cached = self._triggers.by_uid(trigger.uid)
        if cached is not None and cached.rejection is not None:
            return cached.rejection
        if needs_lease(trigger.spec) and not self.leases.holds(trigger.uid):
            return "OtherReplica", "another replica runs it"
        return "NoFunction", "its selector matches no Function"


def _deletion(metadata: Mapping[str, Any]) -> tuple[str, str] | None:
    """The rejection of a trigger that is being deleted. It exists as long as its finalizers."""
    if "deletionTimestamp" not in metadata:
        return None
    waits = ", ".join(metadata.get("finalizers") or ()) or "the garbage collector"
    return "Deleting", f"it is being deleted and does not run any more; it waits for {waits}"
