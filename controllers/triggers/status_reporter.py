"""Keeps the statuses of the triggers up to date."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from controllers.cluster.api import GROUP, VERSION, Api, Object, Refused
from controllers.cluster.conditions import Condition, conditions_of
from controllers.cluster.differences import contains
from controllers.cluster.events import EventRecorder, event_for_acceptance, event_for_note, event_for_transition
from controllers.cluster.installations import Installations
from controllers.cluster.known_fields import accepted
from controllers.cluster.lost_fields import LostFields
from controllers.cluster.work_queue import WorkQueue
from controllers.functions.body_limit import body_limit_of, body_limit_problem
from controllers.triggers.conditions import conditions_of_trigger, held_back, is_starting, rejected
from controllers.triggers.exposed_objects import ExposedObjects, gateway_address, is_exposed
from controllers.triggers.gates import Edition, Gates
from controllers.triggers.in_force import IN_FORCE, Verdict, is_confirmed, verdict
from controllers.triggers.ownership import Key, ownership_fields
from controllers.triggers.peers import Peers
from controllers.triggers.served import Served, ServedTriggers
from controllers.triggers.trigger_cache import CachedTrigger, TriggerCache, key_of
from controllers.triggers.trigger_leases import needs_lease
from trigger_sources.dispatch.flows import Flows, functions_of
from trigger_sources.source import SourceError, TriggerSource

log = logging.getLogger(__name__)

_CONCURRENT_WRITES = 8
_STARTING_SECONDS = 10.0  # a flow that starts has this time to connect before the status says that it is not ready
_OTHERS_SECONDS = 5.0  # other replicas have this time to follow before the status says that they do not
_POLL_SECONDS = 1.0
_POLL_SHARE = 0.02  # the maximum share of time for polls
_MESSAGE_SECONDS = 30.0  # the minimum time between writes that only change a message
_BODY_LIMITS_SECONDS = 5.0
_NEXT_RUNS = 3
_NEXT_RUNS_SECONDS = 60.0


class StatusReporter:
    """Writes the status of each trigger that this replica holds. Lives in one event loop.

    It polls the flows, because their state changes far more often than a status should be written.
    """

    def __init__(
        self,
        api: Api,
        triggers: TriggerCache,
        flows: Flows,
        gates: Gates,
        holds: Callable[[str], bool],  # whether this replica holds the trigger with this uid
        synced: asyncio.Event,  # set once every trigger that existed at the start has been reconciled
        installations: Installations,
        *,
        exposed_objects: ExposedObjects | None = None,
        gateway_url: str | None = None,
        served: ServedTriggers | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.queue: WorkQueue[Key] = WorkQueue(
            self.write,
            name="statuses",
            workers=_CONCURRENT_WRITES,
            expected=(SourceError, Refused, OSError, TimeoutError),
        )
        self._api = api
        self._events = EventRecorder(api, "kubeirq")
        self._lost = LostFields()
        self._triggers = triggers
        self._flows = flows
        self._gates = gates
        self._holds = holds
        self._synced = synced
        self._installations = installations
        self._exposed_objects = exposed_objects
        self._gateway_url = gateway_url
        self._served = served
        self._peers = peers
        if peers is not None:
            peers.on_change = self._others_changed

    async def write(self, key: Key) -> None:
        """Writes the status of one trigger if it differs. Records Events for a transition and a source's note."""
        trigger = self._triggers.get(key)
        if trigger is None:
            return
        wanted = self._desired(trigger)
        if wanted is None:
            return
        before = _present(trigger)
        edited = trigger.object["metadata"]["generation"]
        await trigger.status.change(wanted)
        if (found := trigger.status.last_known) is not None:
            self._lost.look(key[0], wanted, found)
        if trigger.object["metadata"]["generation"] == edited:
            trigger.written, trigger.written_at = wanted, time.monotonic()
        was, now = before.get("conditions", []), wanted["conditions"]
        for event in (event_for_transition(was, now), event_for_note(was, now), event_for_acceptance(was, now)):
            if event is not None:
                await self._events.record(trigger.object, event)

    async def poll(self) -> None:
        """Enqueues each trigger whose status differs, until it is cancelled. Also nudges each flow's dispatcher."""
        await self._synced.wait()
        while True:
            spent, began = 0.0, time.thread_time()
            for number, (key, trigger) in enumerate(list(self._triggers.items())):
                try:
                    if self._desired(trigger) is not None:
                        self.queue.add(key)
                except Exception:  # a fault of one trigger must not stop the others
                    log.exception("status not computed", extra={"trigger": trigger.uid})
                if number % 100 == 99:
                    spent += time.thread_time() - began  # the poll's own time, not that of the other tasks
                    await asyncio.sleep(0)
                    began = time.thread_time()
            if self._served is not None:
                self._served.retain({trigger.uid for _, trigger in self._triggers.items()})
            for running in list(self._flows.running.values()):
                running.flow.dispatcher.nudge()
            spent += time.thread_time() - began
            await asyncio.sleep(max(_POLL_SECONDS, spent / _POLL_SHARE))

    async def compare_body_limits(self) -> None:
        """Compares the bodies that HTTP triggers take with those that their functions take, until it is cancelled.

        Reads a Function once for each edition of its spec: the caches of this controller have no specs of Functions.
        """
        await self._synced.wait()
        limits: dict[tuple[str, str], tuple[Edition, int | None]] = {}  # by namespace and name of the Function
        while True:
            used: dict[tuple[str, str], tuple[Edition, int | None]] = {}
            for number, (_, trigger) in enumerate(list(self._triggers.items())):
                if number % 100 == 99:
                    await asyncio.sleep(0)
                if trigger.spec is not None and "body_limit_bytes" not in type(trigger.spec).model_fields:
                    continue  # to ask such a spec for the field is costly
                asked = getattr(trigger.spec, "body_limit_bytes", 0)
                try:
                    trigger.body_limit = await self._body_limit_problem(trigger, asked, limits, used) if asked else ""
                except (Refused, OSError, TimeoutError) as error:
                    log.warning("function not read", extra={"trigger": trigger.uid, "problem": str(error)})
            limits = used
            await asyncio.sleep(_BODY_LIMITS_SECONDS)

    async def _body_limit_problem(
        self,
        trigger: CachedTrigger,
        asked: int,
        known: Mapping[tuple[str, str], tuple[Edition, int | None]],
        used: dict[tuple[str, str], tuple[Edition, int | None]],
    ) -> str:
        """The first problem of the trigger's functions. `known`: limits that were read; `used` gets those of now."""
        problems = []
        for running in self._flows.of(trigger.uid):
            key = (trigger.namespace, running.flow.identity.function)
            edition = self._gates.edition(*key)
            if edition is None:
                continue  # there is no such Function, or the trigger calls a URL
            found = used.get(key) or known.get(key)
            if found is None or found[0] != edition:
                function = await self._api.get(f"{GROUP}/{VERSION}", "Function", *key)
                if function is None:
                    continue
                metadata = function["metadata"]
                found = ((metadata["uid"], metadata["generation"]), body_limit_of(function["spec"]))
            used[key] = found
            problems.append(body_limit_problem(asked, key[1], found[1]))
        return next(filter(None, problems), "")

    def _others_changed(self, uids: Collection[str] | None) -> None:
        """Looks at the triggers with these uids again, or at all that wait for other replicas."""
        if uids is None:
            found = [trigger for _, trigger in self._triggers.items() if trigger.waits is not None]
        else:
            found = [trigger for uid in uids if (trigger := self._triggers.by_uid(uid)) is not None]
        for trigger in found:
            if self._holds(trigger.uid):
                self.queue.add(key_of(trigger.object))

    def _desired(self, trigger: CachedTrigger) -> Object | None:
        """The fields to write. None if they do not differ, if it is too early to tell, or if another replica writes.

        Also notes for the other replicas what this one serves.
        """
        holds = self._holds(trigger.uid)
        if not holds and self._served is None:
            return None
        if self._installations.other(trigger.object) is not None:
            trigger.written = None  # it is the other one's
            self._tell(trigger, None, None)
            return None
        now, generation = time.monotonic(), _observed_generation(trigger)
        before = _present(trigger)
        exposed = trigger.spec is not None and is_exposed(trigger.spec)
        if generation is None or (exposed and generation != trigger.object["metadata"]["generation"]):
            self._tell(trigger, generation, None)
            return None
        fields, conditions = self._fields_and_conditions(trigger, now)
        if conditions is not None and trigger.rejection is None:
            conditions = [accepted(trigger.unknown), *(found for found in conditions if found.type != "Accepted")]
            if trigger.held_back is not None:
                conditions = held_back(conditions, *trigger.held_back)
        self._tell(trigger, generation, conditions)
        if not holds or conditions is None:
            return None
        others = self._verdict(trigger, generation, before)
        if self._is_too_early(trigger, generation, others, conditions, now):
            return None
        if others.ready is not None:
            conditions = [
                others.ready if found.type == "Ready" and found.status == "True" else found for found in conditions
            ]
        if not others.is_in_force:
            generation = before.get("observedGeneration", 0)
        conditions = self._installations.shown(trigger.object, conditions)
        fields = {**fields, **self._installations.fields(trigger.object)}
        moment = datetime.now(UTC)
        claims = self._triggers.ownership.claims_of(key_of(trigger.object))
        served = before.get("served") or {}
        # before the sync nobody knows which trigger owns a claim
        if (trigger.spec is None or trigger.rejection is None) and (self._synced.is_set() or served):
            fields = {**fields, **ownership_fields(served, claims, _text_of(moment))}
        wanted: Object = {
            **fields,
            "observedGeneration": generation,
            "conditions": conditions_of(
                conditions, before.get("conditions", []), generation=generation, now=_text_of(moment)
            ),
        }
        target = trigger.spec.target if trigger.spec is not None else None
        if target is not None and target.selector is not None:
            wanted["functions"] = sorted(running.flow.identity.function for running in self._flows.of(trigger.uid))
        elif before.get("functions") is not None:
            wanted["functions"] = None  # of an earlier spec, with a selector
        same = contains(before, wanted) or (
            _is_same_except_messages(before, wanted) and now - trigger.written_at < _MESSAGE_SECONDS
        )
        next_runs = getattr(self._running_spec(trigger), "next_runs", None)
        if next_runs is not None and (not same or now - trigger.written_at > _NEXT_RUNS_SECONDS):
            wanted["nextRuns"] = [_text_of(run) for run in next_runs(_NEXT_RUNS, moment)]
            same = same and contains(before, wanted)
        return None if same else wanted

    def _fields_and_conditions(self, trigger: CachedTrigger, now: float) -> tuple[Object, list[Condition] | None]:
        """The fields besides the conditions, and the conditions, None while it is too early to tell."""
        if trigger.rejection is not None:
            return {}, rejected(*trigger.rejection)
        spec = trigger.spec
        assert spec is not None
        if self._exposed_objects is not None and is_exposed(spec):
            (function,) = functions_of(spec, ())
            down_reason = self._gates.of(trigger.namespace, function).down_reason
            return self._exposed_objects.status_of(trigger.object, spec, down_reason)
        flows = {running.flow.identity.function: running.flow.status() for running in self._flows.of(trigger.uid)}
        if is_starting(flows) and now - trigger.applied_at < _STARTING_SECONDS:
            return {}, None
        name, url = trigger.object["metadata"]["name"], self._gateway_url
        address = {} if url is None else gateway_address(url, name, self._running_spec(trigger) or spec)
        return address, conditions_of_trigger(flows, trigger.body_limit)

    def _tell(self, trigger: CachedTrigger, generation: int | None, conditions: Sequence[Condition] | None) -> None:
        """Notes for the other replicas what this one serves. `conditions` are None while the flows start."""
        if self._served is None:
            return
        if generation is None or self._runs_in_one_replica(trigger):
            self._served.tell(trigger.uid, None)
        elif conditions is None:
            self._served.tell(trigger.uid, Served(generation, "False", "Starting", "its flow starts"))
        else:
            ready = next(found for found in conditions if found.type == "Ready")
            self._served.tell(trigger.uid, Served(generation, ready.status, ready.reason, ready.message))

    def _runs_in_one_replica(self, trigger: CachedTrigger) -> bool:
        spec = self._running_spec(trigger)
        return spec is not None and (needs_lease(spec) or is_exposed(spec))

    def _verdict(self, trigger: CachedTrigger, generation: int, before: Mapping[str, Any]) -> Verdict:
        if self._peers is None:
            return IN_FORCE
        runs_everywhere = (
            trigger.rejection is None
            and trigger.spec is not None
            and not (needs_lease(trigger.spec) or is_exposed(trigger.spec))
        )
        return verdict(
            trigger.uid,
            generation,
            self._peers.found,
            runs_everywhere=runs_everywhere,
            is_confirmed=is_confirmed(before, generation),
        )

    def _is_too_early(
        self, trigger: CachedTrigger, generation: int, others: Verdict, own: Sequence[Condition], now: float
    ) -> bool:
        """Whether the other replicas still have time to follow. Until then the status stays as it is."""
        is_ready = all(found.status == "True" for found in own if found.type == "Ready")
        if others.is_in_force and (others.ready is None or not is_ready):
            trigger.waits = None
            return False
        if trigger.waits is None or trigger.waits[0] != generation:
            trigger.waits = generation, now
        return now - trigger.waits[1] < _OTHERS_SECONDS

    def _running_spec(self, trigger: CachedTrigger) -> TriggerSource | None:
        """The spec of the flows that run. While an edit waits for their drain, it is not that of the object."""
        flows = self._flows.of(trigger.uid)
        return flows[0].resource.spec if flows else trigger.spec


def _observed_generation(trigger: CachedTrigger) -> int | None:
    """The generation of the spec that the status is about: the spec that runs, or the one that was rejected.

    None before the first spec runs.
    """
    if trigger.rejection is not None or trigger.held_back is not None:
        generation: int = trigger.object["metadata"]["generation"]
        return generation
    return trigger.applied


def _present(trigger: CachedTrigger) -> Object:
    """The status as this replica wrote it last, or else as it was last observed."""
    status: Object = trigger.written if trigger.written is not None else trigger.object.get("status", {})
    return status


def _is_same_except_messages(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    def without_messages(status: Mapping[str, Any]) -> Object:
        conditions = [
            {name: value for name, value in found.items() if name != "message"}
            for found in status.get("conditions", [])
        ]
        return {**status, "conditions": conditions}

    return contains(without_messages(before), without_messages(wanted))


def _text_of(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
