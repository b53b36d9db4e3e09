"""The trigger controller: runs the source of every trigger of its kinds, and says how each is.

Generic over kinds, plugins' too. Level-triggered: what it sees only says which trigger to look at again. Replicas share
the work through what already shares it out, a consumer group or a competing consumer; where order or a single runner
is needed, through Leases.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from controllers.cluster.api import GROUP, VERSION, Api, Object, Refused, plural_of
from controllers.cluster.conditions import Condition, conditions_of
from controllers.cluster.differences import contains
from controllers.cluster.events import EventRecorder, event_for_transition
from controllers.cluster.operator import Event, Watch
from controllers.cluster.work_queue import WorkQueue
from controllers.functions.status import FUNCTION_LABEL
from controllers.triggers.conditions import conditions_of_trigger, is_starting, rejected
from controllers.triggers.egress_policy import out_of_reach
from controllers.triggers.exposed_objects import Exposures, is_exposed, served_at
from controllers.triggers.gates import Gates
from controllers.triggers.ownership import Claims, served_of, served_since
from controllers.triggers.secrets import Secrets
from controllers.triggers.status import TriggerStatus
from trigger_sources.dispatch.counters import Reading
from trigger_sources.dispatch.filters import compile_filter
from trigger_sources.dispatch.flows import FlowKey, Flows, TriggerResource, functions_of
from trigger_sources.dispatch.host import Host
from trigger_sources.problems import problem_text
from trigger_sources.registry import source_of
from trigger_sources.source import SourceError, TriggerSource
from trigger_sources.spec import secret_refs

log = logging.getLogger(__name__)

SWEEP_SECONDS = 300.0  # what a watch missed is found within this
_RECONCILES_AT_ONCE = 64  # most of them wait for what drains
_STATUSES_AT_ONCE = 8
_STATES_AT_ONCE = 16  # requests for what sources keep in the triggers' status
_LET_GO_SECONDS = 4.0  # what runs may end within this once another replica is about to take over
_STARTING_SECONDS = 10.0  # a flow that has not said how it is yet is waited for, rather than told to be not ready
_TELL_SECONDS = 1.0
_TELL_SHARE = 0.02  # of the time, at most, goes into looking for statuses that changed
_SAME_WORDS_SECONDS = 30.0  # between writes that change a message only
_NEXT_RUNS = 3
_NEXT_RUNS_SECONDS = 60.0

Key = tuple[str, str, str]  # kind, namespace, name


class Duties(Protocol):
    """Which triggers are this replica's, where only one may run them."""

    def holds(self, uid: str) -> bool:
        """Just now, and safely so."""

    def term_of(self, uid: str) -> int | None:
        """Higher than that of every earlier holder; None: it is not safely this replica's."""


class Alone:
    """There are no other replicas."""

    def holds(self, uid: str) -> bool:
        return True

    def term_of(self, uid: str) -> int | None:
        return 0


@dataclass
class KnownTrigger:
    """One trigger of the cluster, as it was seen last."""

    object: Object
    spec: TriggerSource | None
    rejection: tuple[str, str] | None  # reason and message: it cannot run as it is written
    status: TriggerStatus
    said: Object | None = None  # the status as this replica wrote it last
    said_at: float = float("-inf")  # of the monotonic clock
    applied_at: float = float("-inf")
    applying: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def uid(self) -> str:
        uid: str = self.object["metadata"]["uid"]
        return uid

    @property
    def namespace(self) -> str:
        namespace: str = self.object["metadata"]["namespace"]
        return namespace


class TriggerController:
    """Made and run in one event loop. `kinds`: of the registry. `duties` may be set until it runs."""

    def __init__(
        self,
        api: Api,
        kinds: Sequence[str],
        host: Host,
        gates: Gates,
        secrets: Secrets,
        *,
        duties: Duties | None = None,
        exposures: Exposures | None = None,
        gateway_url: str | None = None,
        namespace: str | None = None,
        grace_seconds: float = 30.0,
    ) -> None:
        self.duties: Duties = duties or Alone()
        self.synced = asyncio.Event()  # every trigger that was there at the start has been looked at
        self.flows = Flows(host, gates.of, may_start=self._may_start)
        self.queue: WorkQueue[Key] = WorkQueue(
            self.reconcile, workers=_RECONCILES_AT_ONCE, expected=(SourceError, Refused, OSError, TimeoutError)
        )
        self.statuses: WorkQueue[Key] = WorkQueue(
            self.tell, workers=_STATUSES_AT_ONCE, expected=(SourceError, Refused, OSError, TimeoutError)
        )
        self._api = api
        self._events = EventRecorder(api, "kubeirq")
        self._turns = asyncio.Semaphore(_STATES_AT_ONCE)
        self._host = host
        self._kinds = tuple(kinds)
        self._gates = gates
        self._secrets = secrets
        self._exposures = exposures
        self._gateway_url = gateway_url
        self._namespace = namespace
        self._grace_seconds = grace_seconds
        self._triggers: dict[Key, KnownTrigger] = {}
        self._by_uid: dict[str, KnownTrigger] = {}
        self._claims = Claims()
        self._applied: dict[Key, str] = {}  # whose flows run, by uid
        self._touched: set[Key] = set()  # what is known of these is newer than the listing under way

    # --- what happens in the cluster

    def watches(self) -> list[Watch]:
        """The triggers, the Functions that they may call, and where those are."""
        found = [Watch(source_of(kind).api_group, VERSION, plural_of(kind), self._trigger_seen) for kind in self._kinds]
        found.append(Watch(GROUP, VERSION, "functions", self._function_seen))
        found.append(Watch("discovery.k8s.io", "v1", "endpointslices", self._slice_seen, FUNCTION_LABEL))
        if self._exposures is not None:
            found += self._exposures.watches(lambda owner: self.queue.add(("HTTPTrigger", *owner)))
        return found

    def secret_watches(self) -> list[Watch]:
        """Secrets: there are rights to those of some namespaces only."""
        return [Watch("", "v1", "secrets", self._secret_seen)]

    async def run(self) -> None:
        """Until cancelled; what runs is drained then."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.queue.run())
                group.create_task(self.statuses.run())
                group.create_task(self._sweeping())
                group.create_task(self._telling())
        finally:
            await asyncio.gather(self._host.gateway.close(self._grace_seconds), self.flows.stop(self._grace_seconds))

    async def sweep(self) -> None:
        """Lists everything, and looks at every trigger again."""
        self._touched.clear()
        self._gates.listing()
        listed: dict[Key, Object] = {}
        for kind in self._kinds:
            for found in await self._api.list(f"{source_of(kind).api_group}/{VERSION}", kind, self._namespace):
                listed[_key_of(found)] = found
        functions = await self._api.list(f"{GROUP}/{VERSION}", "Function", self._namespace)
        slices = await self._api.list("discovery.k8s.io/v1", "EndpointSlice", self._namespace, {FUNCTION_LABEL: ""})
        self._gates.listed(functions, slices)
        await self._list_secrets()
        if self._exposures is not None:
            await self._exposures.refresh()
        for key in listed.keys() - self._touched:
            self._note(key, listed[key])
        for key in self._triggers.keys() - listed.keys() - self._touched:
            self._forget(key)
        for key in (*self._triggers, *self._applied):
            self.queue.add(key)
        await self._gates.keep(self._called())

    async def _list_secrets(self) -> None:
        """A watch tells nothing of what went while it was away."""
        self._secrets.listing()
        try:
            listed = [
                found
                for namespace in self._secrets.namespaces
                for found in await self._api.list("v1", "Secret", namespace)
            ]
        except Refused as refused:  # what needs none of them runs all the same
            log.warning("secrets not listed", extra={"problem": str(refused)})
            return
        self._secrets.listed(listed)

    def _called(self) -> set[tuple[str, str]]:
        """Namespace and name of each function that a trigger calls, or that something which still runs does."""
        called = {(running.resource.namespace, key[1]) for key, running in self.flows.running.items()}
        specs = [(trigger.namespace, trigger.spec) for trigger in self._triggers.values() if trigger.spec is not None]
        specs += [(running.resource.namespace, running.resource.spec) for running in self.flows.running.values()]
        for namespace, spec in specs:
            called |= {(namespace, name) for name in functions_of(spec, self._gates.functions(namespace))}
            if spec.reply is not None and spec.reply.function is not None:
                called.add((namespace, spec.reply.function))
        return called

    async def _sweeping(self) -> None:
        while True:
            try:
                await self.sweep()
                if not self.synced.is_set():
                    await self.queue.wait_until_idle()
                    self.synced.set()
            except (Refused, OSError, TimeoutError) as error:
                log.warning("sweep failed", extra={"problem": str(error) or repr(error)})
                await asyncio.sleep(5)
            else:
                await asyncio.sleep(SWEEP_SECONDS)

    def _trigger_seen(self, event: Event) -> None:
        found = event["object"]
        key = _key_of(found)
        self._touched.add(key)
        if event["type"] == "DELETED":
            known = self._triggers.get(key)
            if known is not None and known.uid == found["metadata"]["uid"]:
                self._forget(key)
        elif not self._note(key, found):
            return
        self.queue.add(key)

    def _function_seen(self, event: Event) -> None:
        function = event["object"]
        if self._gates.function_seen(function, gone=event["type"] == "DELETED"):
            for key, trigger in self._triggers.items():
                target = trigger.spec.target if trigger.spec is not None else None
                if target is not None and target.selector and key[1] == function["metadata"]["namespace"]:
                    self.queue.add(key)

    def _slice_seen(self, event: Event) -> None:
        self._gates.slice_seen(event["object"], gone=event["type"] == "DELETED")

    def _secret_seen(self, event: Event) -> None:
        changed = self._secrets.seen(event["object"], gone=event["type"] == "DELETED")
        if changed is None:
            return
        for key, trigger in self._triggers.items():
            if key[1] == changed[0] and trigger.spec is not None and changed[1] in _secrets_of(trigger.spec):
                self.queue.add(key)

    def duties_changed(self) -> None:
        """This replica holds other triggers than before."""
        for key, trigger in self._triggers.items():
            if trigger.spec is not None and not self._writes_status(trigger):
                trigger.said = None  # whoever holds it now says how it is
            self.queue.add(key)

    async def let_go(self, concerned: Callable[[str], bool]) -> None:
        """Ends what only a holder may run, of the triggers with these uids: another replica is about to."""
        gone = [
            trigger
            for trigger in self._triggers.values()
            if concerned(trigger.uid) and trigger.spec is not None and needs_holder(trigger.spec)
        ]
        ended = await asyncio.gather(
            *(self._apply(trigger, _LET_GO_SECONDS) for trigger in gone), return_exceptions=True
        )
        for trigger, problem in zip(gone, ended, strict=True):
            if isinstance(problem, BaseException):  # the others' end is waited for all the same
                log.error("letting go failed", extra={"trigger": trigger.uid}, exc_info=problem)

    # --- what runs

    async def reconcile(self, key: Key) -> None:
        """Makes what runs of one trigger what is wanted."""
        trigger = self._triggers.get(key)
        before = self._applied.get(key)
        if before is not None and (trigger is None or trigger.uid != before):
            await self.flows.apply({}, self._grace_seconds, uid=before)
            del self._applied[key]
        if trigger is None:
            return
        self._applied[key] = trigger.uid
        await self._apply(trigger, self._grace_seconds)
        self.statuses.add(key)
        if self._exposures is not None and trigger.spec is not None and self.duties.holds(trigger.uid):
            await self._exposures.make(trigger.object, trigger.spec)
            self.statuses.add(key)

    async def _apply(self, trigger: KnownTrigger, grace_seconds: float) -> None:
        async with trigger.applying:
            wanted = self._wanted(trigger)
            if {key for key in self.flows.running if key[0] == trigger.uid} != wanted.keys():
                trigger.applied_at = time.monotonic()
            if trigger.spec is not None and needs_holder(trigger.spec) and not self.duties.holds(trigger.uid):
                grace_seconds = min(grace_seconds, _LET_GO_SECONDS)  # whoever comes first, here or in `let_go`
            await self.flows.apply(wanted, grace_seconds, uid=trigger.uid)

    def _wanted(self, trigger: KnownTrigger) -> dict[FlowKey, TriggerResource]:
        """The flows of this trigger that are to run in this process."""
        spec, metadata = trigger.spec, trigger.object["metadata"]
        if spec is None or self._triggers.get(_key_of(trigger.object)) is not trigger:
            return {}
        functions = functions_of(spec, self._gates.functions(trigger.namespace))
        trigger.rejection = out_of_reach(self._host.reach, trigger.object, spec) or self._taken(trigger)
        if trigger.rejection is not None or is_exposed(spec):
            return {}
        if len(functions) > 1 and not spec.fan_out:
            kind, names = trigger.object["kind"], ", ".join(sorted(functions))
            message = f"spec.functionSelector: a {kind} calls one function; these match: {names}"
            trigger.rejection = ("SeveralFunctions", message)
            return {}
        if needs_holder(spec) and not self.duties.holds(trigger.uid):
            return {}
        resource = TriggerResource(
            kind=trigger.object["kind"],
            namespace=trigger.namespace,
            name=metadata["name"],
            spec=spec,
            uid=trigger.uid,
            secrets=self._secrets.versions(trigger.namespace, _secrets_of(spec)),
        )
        return {(trigger.uid, function): resource for function in functions}

    def _taken(self, trigger: KnownTrigger) -> tuple[str, str] | None:
        """The rejection of a trigger that claims what an older one has."""
        lost = self._claims.lost_to(_key_of(trigger.object))
        if lost is None:
            return None
        what, (kind, namespace, name) = lost
        return "Taken", f"spec: {what} is served by {kind} {namespace}/{name} already; change one of them"

    def _may_start(self, trigger: TriggerResource) -> Callable[[], bool] | None:
        if not needs_holder(trigger.spec) or isinstance(self.duties, Alone):
            return None
        uid = trigger.uid
        return lambda: self.duties.holds(uid)

    def may_take(self, uid: str) -> bool:
        """Whether this replica takes what the fabric itself keeps for the trigger: where order matters, one does."""
        trigger = self._by_uid.get(uid)
        if trigger is None or trigger.spec is None:
            return False
        return trigger.spec.lanes == "none" or self.duties.holds(uid)

    def status_of(self, uid: str) -> TriggerStatus:
        """Where the state of that trigger is. Raises SourceError when it is gone."""
        trigger = self._by_uid.get(uid)
        if trigger is None:
            raise SourceError("TriggerGone", "the trigger was deleted")
        return trigger.status

    # --- what is said

    async def tell(self, key: Key) -> None:
        """Writes the trigger's status where it differs."""
        trigger = self._triggers.get(key)
        if trigger is None or not self._writes_status(trigger):
            return
        wanted = self._status_wanted(trigger)
        if wanted is None:
            return
        before = trigger.said if trigger.said is not None else trigger.object.get("status", {})
        await trigger.status.change(wanted)
        trigger.said, trigger.said_at = wanted, time.monotonic()
        if (happened := event_for_transition(before.get("conditions", []), wanted["conditions"])) is not None:
            await self._events.record(trigger.object, happened)

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        return (running.flow.reading() for running in self.flows.running.values())

    def triggers(self) -> Mapping[str, TriggerResource]:
        """All that this process knows and could run, by uid, for the admin API."""
        return {
            trigger.uid: TriggerResource(key[0], key[1], key[2], trigger.spec, trigger.uid)
            for key, trigger in self._triggers.items()
            if trigger.spec is not None
        }

    def idle_because(self, trigger: TriggerResource) -> tuple[str, str]:
        """Why no flow of that trigger runs here: a reason, and a text for a person."""
        known = self._by_uid.get(trigger.uid)
        if known is not None and known.rejection is not None:
            return known.rejection
        if needs_holder(trigger.spec) and not self.duties.holds(trigger.uid):
            return "OtherReplica", "another replica runs it"
        return "NoFunction", "its selector matches no Function"

    def _status_wanted(self, trigger: KnownTrigger) -> Object | None:
        """The fields to write; None when that would change nothing, or it is too soon to tell."""
        now, generation = time.monotonic(), trigger.object["metadata"]["generation"]
        before: Object = trigger.said if trigger.said is not None else trigger.object.get("status", {})
        fields, conditions = self._told(trigger, now)
        if conditions is None:
            return None
        moment = datetime.now(UTC)
        # before all are known nobody is the first to serve anything
        if trigger.spec is not None and trigger.rejection is None and (self.synced.is_set() or "served" in before):
            claims = self._claims.of(_key_of(trigger.object))
            fields = {**fields, **served_since(before.get("served", {}), claims, _text_of(moment))}
        wanted: Object = {
            **fields,
            "observedGeneration": generation,
            "conditions": conditions_of(
                conditions,
                before.get("conditions", []),
                generation=generation,
                now=_text_of(moment),
            ),
        }
        target = trigger.spec.target if trigger.spec is not None else None
        if target is not None and target.selector is not None:
            wanted["functions"] = sorted(running.flow.identity.function for running in self.flows.of(trigger.uid))
        same = contains(before, wanted) or (
            _same_but_for_words(before, wanted) and now - trigger.said_at < _SAME_WORDS_SECONDS
        )
        next_runs = getattr(trigger.spec, "next_runs", None)
        if next_runs is not None and (not same or now - trigger.said_at > _NEXT_RUNS_SECONDS):
            wanted["nextRuns"] = [_text_of(run) for run in next_runs(_NEXT_RUNS, moment)]
            same = same and contains(before, wanted)
        return None if same else wanted

    def _told(self, trigger: KnownTrigger, now: float) -> tuple[Object, list[Condition] | None]:
        """The status' own fields, and the conditions, None while it is too soon to tell."""
        if trigger.rejection is not None:
            return {}, rejected(*trigger.rejection)
        spec = trigger.spec
        assert spec is not None
        if self._exposures is not None and is_exposed(spec):
            (function,) = functions_of(spec, ())
            return self._exposures.told(trigger.object, spec, self._gates.of(trigger.namespace, function).down_reason)
        flows = {running.flow.identity.function: running.flow.status() for running in self.flows.of(trigger.uid)}
        if is_starting(flows) and now - trigger.applied_at < _STARTING_SECONDS:
            return {}, None
        name, url = trigger.object["metadata"]["name"], self._gateway_url
        return ({} if url is None else served_at(url, name, spec)), conditions_of_trigger(flows)

    def _writes_status(self, trigger: KnownTrigger) -> bool:
        return self.duties.holds(trigger.uid)

    async def _telling(self) -> None:
        await self.synced.wait()
        while True:
            started = time.monotonic()
            for number, (key, trigger) in enumerate(list(self._triggers.items())):
                try:
                    if self._writes_status(trigger) and self._status_wanted(trigger) is not None:
                        self.statuses.add(key)
                except Exception:  # of one trigger: the others run on
                    log.exception("status not told", extra={"trigger": trigger.uid})
                if number % 100 == 99:
                    await asyncio.sleep(0)
            for running in list(self.flows.running.values()):
                running.flow.dispatcher.nudge()
            await asyncio.sleep(max(_TELL_SECONDS, (time.monotonic() - started) / _TELL_SHARE))

    # --- what is known

    def _note(self, key: Key, found: Object) -> bool:
        """Whether there is anything to do about it."""
        found["metadata"].pop("managedFields", None)  # half of an object, and nobody's concern here
        known = self._triggers.get(key)
        if known is not None and known.uid == found["metadata"]["uid"]:
            same = known.object["metadata"]["generation"] == found["metadata"]["generation"]
            held = served_of(known.object) != served_of(found)
            known.object = found
            if same:
                if held:
                    self._look_again(self._claims.note(key, found, known.spec))
                return False
            known.spec, known.rejection = _spec_of(found)
            known.status.fenced = self._is_fenced(known.spec)
            known.said = None
            self._look_again(self._claims.note(key, found, known.spec))
            return True
        if known is not None:
            self._forget(key)
        spec, rejection = _spec_of(found)
        uid = found["metadata"]["uid"]
        status = TriggerStatus(
            self._api, found, term=lambda: self.duties.term_of(uid), fenced=self._is_fenced(spec), turns=self._turns
        )
        self._triggers[key] = self._by_uid[uid] = known = KnownTrigger(found, spec, rejection, status)
        self._look_again(self._claims.note(key, found, spec))
        return True

    def _is_fenced(self, spec: TriggerSource | None) -> bool:
        return spec is not None and needs_holder(spec) and not isinstance(self.duties, Alone)

    def _forget(self, key: Key) -> None:
        trigger = self._triggers.pop(key, None)
        if trigger is not None:
            self._by_uid.pop(trigger.uid, None)
            self._look_again(self._claims.forget(key))
            if self._exposures is not None:
                self._exposures.forget(key[1:])

    def _look_again(self, concerned: Iterable[Key]) -> None:
        """They may have, or no longer have, what they claim."""
        for key in concerned:
            self.queue.add(key)


def needs_holder(spec: TriggerSource) -> bool:
    """Whether one replica at a time may run it: what shares nothing out, or shares out without regard to order."""
    return spec.sharing == "single" or (spec.sharing == "competing" and spec.lanes != "none")


def _spec_of(trigger: Mapping[str, Any]) -> tuple[TriggerSource | None, tuple[str, str] | None]:
    """The spec as its kind's model, or why it is none."""
    model = source_of(trigger["kind"])
    try:
        spec = model.model_validate(trigger.get("spec") or {})
        if spec.filter is not None:
            try:
                compile_filter(spec.filter)
            except ValueError as error:
                raise ValueError(f"spec.filter: {error}") from None
    except ValueError as error:
        return None, ("Invalid", problem_text(error, model))
    except Exception as error:  # a kind's own fault; the other triggers run on
        log.exception("spec not read", extra={"trigger": trigger["metadata"]["uid"]})
        return None, ("Invalid", f"spec: it cannot be read: {type(error).__name__}: {error}")
    return spec, None


def _secrets_of(spec: TriggerSource) -> list[str]:
    return sorted({reference.name for _, reference in secret_refs(spec)})


def _same_but_for_words(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    def without_words(status: Mapping[str, Any]) -> Object:
        conditions = [
            {name: value for name, value in found.items() if name != "message"}
            for found in status.get("conditions", [])
        ]
        return {**status, "conditions": conditions}

    return contains(without_words(before), without_words(wanted))


def _key_of(found: Mapping[str, Any]) -> Key:
    return found["kind"], found["metadata"]["namespace"], found["metadata"]["name"]


def _text_of(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
