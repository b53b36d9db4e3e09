"""The Function controller: makes of every Function what runs it, keeps it so, and says how it is.

Level-triggered: what it sees only says which function to look at again. It writes where something is lacking, and
nowhere else.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from controllers.cluster.api import FIELD_MANAGER, GROUP, VERSION, Api, Object, Refused
from controllers.cluster.conditions import Condition, conditions_of
from controllers.cluster.differences import applied_fields, contains
from controllers.cluster.events import EventRecorder, event_for_transition
from controllers.cluster.operator import Event, Watch
from controllers.cluster.owned_objects import Key, NameTaken, OwnedObjects, key_of
from controllers.cluster.work_queue import WorkQueue
from controllers.functions.resource import FunctionSpec
from controllers.functions.workload import FUNCTION_LABEL, Settings, objects_of, status_of
from trigger_sources.problems import problem_text

log = logging.getLogger(__name__)

SWEEP_SECONDS = 300.0  # a missed deletion, a Service changed by hand: found within this
LOOK_AGAIN_SECONDS = (2.0, 60.0)  # at pods, whose troubles do not show in a Deployment; less and less often
OWNED = (
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
)


class FunctionController:
    """Made and run in one event loop. What it knows of the cluster comes from watches and from the sweep.

    `leads` says whether this replica writes; the others know as much, and do nothing.
    """

    def __init__(self, api: Api, settings: Settings, *, namespace: str | None = None) -> None:
        self.is_leader: Callable[[], bool] = lambda: True
        self._api = api
        self._events = EventRecorder(api, "kubeirq-functions")
        self._settings = settings
        self._namespace = namespace
        self._functions: dict[Key, Object] = {}
        self._touched: set[Key] = set()  # what is known of these is newer than the listing under way
        self._owned = OwnedObjects(api, OWNED, label=FUNCTION_LABEL, namespace=namespace)
        self.synced = asyncio.Event()  # every function that was there at the start is known
        self.queue: WorkQueue[Key] = WorkQueue(self.reconcile, expected=(Refused, OSError, TimeoutError))

    def watches(self) -> list[Watch]:
        """Functions, and the Deployments that they own."""
        return [
            Watch(GROUP, VERSION, "functions", self._function_seen),
            Watch("apps", "v1", "deployments", self._deployment_seen, FUNCTION_LABEL),
        ]

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.run())
            group.create_task(self._sweeping())

    def leader_changed(self) -> None:
        """Whoever leads from now on looks at every function."""
        for key in self._functions:
            self.queue.add(key)

    async def sweep(self) -> None:
        """Lists everything, and looks at every function again."""
        self._touched.clear()
        functions = await self._api.list(f"{GROUP}/{VERSION}", "Function", self._namespace)
        listed = {key_of(found): found for found in functions}
        for key in self._touched:
            listed.pop(key, None)
            if key in self._functions:
                listed[key] = self._functions[key]
        self._functions = listed
        await self._owned.refresh()
        for key in self._functions:
            self.queue.add(key)

    async def reconcile(self, key: Key) -> None:
        """Makes what is there what is wanted, for one function. Raises what the API server raises."""
        function = self._functions.get(key)
        if function is None or "deletionTimestamp" in function["metadata"] or not self.is_leader():
            return  # owner references delete what belonged to it
        try:
            spec = FunctionSpec.model_validate(function["spec"]).named(key[1])
            wanted = objects_of(function["metadata"], spec, self._settings)
        except ValueError as error:
            await self._say(function, {}, [Condition("Ready", "False", "Invalid", problem_text(error, FunctionSpec))])
            return
        try:
            if spec.scale.is_automatic:
                await self._leave_replicas_to_the_autoscaler(key)
            await self._owned.ensure(function, wanted)
        except Refused as refused:
            reason = "NameTaken" if isinstance(refused, NameTaken) else "Refused"
            await self._say(function, {}, [Condition("Ready", "False", reason, refusal_text(str(refused), spec))])
            raise
        await self._discard(function, wanted)
        deployment = self._owned.get(key, "Deployment", key[1]) or {}
        settled = _is_settled(deployment)
        # asked for, not watched: a watch would bring every pod of the cluster
        pods = [] if settled else await self._api.list("v1", "Pod", key[0], {FUNCTION_LABEL: key[1]})
        source = None if settled or spec.source.config_map is None else spec.source.config_map.name
        config_map = None if source is None else await self._api.get("v1", "ConfigMap", key[0], source)
        status, conditions = status_of(spec, deployment, pods, datetime.now(UTC), config_map)
        await self._say(function, status, conditions)
        if not settled:
            self.queue.add_after(key, look_again_after(deployment, datetime.now(UTC)))

    async def _leave_replicas_to_the_autoscaler(self, key: Key) -> None:
        """How many there are stays as it is: a number that nobody wants any more would become 1."""
        live = self._owned.get(key, "Deployment", key[1])
        if live is None or "f:replicas" not in applied_fields(live, FIELD_MANAGER, "apps/v1").get("f:spec", {}):
            return
        head = {"name": key[1], "namespace": key[0]}
        kept = {"replicas": live["spec"]["replicas"]}
        await self._api.apply(
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": head, "spec": kept},
            manager=f"{FIELD_MANAGER}-scale",
        )

    async def _discard(self, function: Object, wanted: list[Object]) -> None:
        """Removes what is no longer wanted; the code of a revision that can be rolled back to is kept."""
        key = key_of(function)
        unwanted = self._owned.unwanted(function, wanted)
        if not unwanted:
            return
        sets = await self._api.list("apps/v1", "ReplicaSet", key[0], {FUNCTION_LABEL: key[1]})
        used = {name for found in sets for name in config_maps_of(found)}
        for found in unwanted:
            if found["kind"] != "ConfigMap" or found["metadata"]["name"] not in used:
                await self._owned.remove(key, found)

    async def _say(self, function: Object, status: Mapping[str, Any], conditions: list[Condition]) -> None:
        """Writes the status where it differs."""
        metadata, before = function["metadata"], function.get("status", {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        wanted = {
            **status,
            "observedGeneration": metadata["generation"],
            "conditions": conditions_of(
                conditions, before.get("conditions", []), generation=metadata["generation"], now=now
            ),
        }
        if contains(before, wanted) and contains(wanted, before):
            return
        head = {"name": metadata["name"], "namespace": metadata["namespace"]}
        try:
            found = await self._api.apply(
                {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Function", "metadata": head, "status": wanted},
                subresource="status",
            )
        except Refused as refused:
            if refused.status == 404:
                return  # deleted meanwhile
            raise
        if key_of(function) in self._functions:
            self._functions[key_of(function)] = found
            self._touched.add(key_of(function))
        if (happened := event_for_transition(before.get("conditions", []), wanted["conditions"])) is not None:
            await self._events.record(found, happened)

    async def _sweeping(self) -> None:
        while True:
            try:
                await self.sweep()
                self.synced.set()
            except (Refused, OSError, TimeoutError):
                log.warning("sweep failed", exc_info=True)
                await asyncio.sleep(5)
            else:
                await asyncio.sleep(SWEEP_SECONDS)

    def _function_seen(self, event: Event) -> None:
        found = dict(event["object"])
        self._touched.add(key_of(found))
        if event["type"] == "DELETED":
            self._functions.pop(key_of(found), None)
            self._owned.forget(key_of(found))
            return
        before = self._functions.get(key_of(found))
        self._functions[key_of(found)] = found
        if before is None or before["metadata"].get("generation") != found["metadata"].get("generation"):
            self.queue.add(key_of(found))

    def _deployment_seen(self, event: Event) -> None:
        self.queue.add(self._owned.observe(event))


def look_again_after(deployment: Mapping[str, Any], now: datetime) -> float:
    """Seconds until pods may have more to say: the longer their Deployment has said nothing new, the longer."""
    conditions = deployment.get("status", {}).get("conditions", [])
    news = [datetime.fromisoformat(found["lastUpdateTime"]) for found in conditions if "lastUpdateTime" in found]
    least, most = LOOK_AGAIN_SECONDS
    return min(most, max(least, (now - max(news, default=now)).total_seconds() / 2))


def refusal_text(text: str, spec: FunctionSpec) -> str:
    """What the API server says of the Deployment, with the Function's fields in place of those made of them."""
    text = text.replace("spec.template.spec.containers[0].resources", "spec.resources")
    return text.replace("spec.template.", "spec.podTemplate.") if spec.pod_template else text


def config_maps_of(workload: Mapping[str, Any]) -> Iterator[str]:
    """The names of the ConfigMaps that the pods of a ReplicaSet or Deployment mount."""
    for volume in workload["spec"]["template"]["spec"].get("volumes", []):
        if "configMap" in volume:
            yield volume["configMap"]["name"]
        for source in volume.get("projected", {}).get("sources", []):
            if "configMap" in source:
                yield source["configMap"]["name"]


def _is_settled(deployment: Mapping[str, Any]) -> bool:
    """Whether all replicas are of the newest revision and ready: then no pod has anything to tell."""
    status, spec = deployment.get("status", {}), deployment.get("spec", {})
    return bool(
        status.get("observedGeneration") == deployment.get("metadata", {}).get("generation")
        and status.get("replicas", 0) == status.get("updatedReplicas", 0) == status.get("readyReplicas", 0)
        and status.get("readyReplicas", 0) == spec.get("replicas", 1)
    )
