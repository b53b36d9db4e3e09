"""The Function controller: reconciles the objects that run each Function, and writes the Function's status.

It is level-triggered: a watch event only puts the Function's key into the work queue. It writes only to objects that
differ from their desired state.
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
from controllers.cluster.informer_cache import InformerCache, Version
from controllers.cluster.operator import Event, Watch
from controllers.cluster.owned_objects import Key, NameTaken, OwnedObjects, key_of
from controllers.cluster.work_queue import WorkQueue
from controllers.functions.pod_template import Settings
from controllers.functions.resource import FunctionSpec
from controllers.functions.status import FUNCTION_LABEL, status_of
from controllers.functions.workload import objects_of
from trigger_sources.problems import problem_text

log = logging.getLogger(__name__)

RESYNC_SECONDS = 300.0  # finds missed deletions and manual changes of unwatched objects
REQUEUE_SECONDS = (2.0, 60.0)  # minimum and maximum, for the pods of a Deployment that is not rolled out
OWNED_KINDS = (
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
)


class FunctionController:
    """Lives in one event loop. Its caches are filled by watches and by the periodic resync.

    Only the leader writes. The other replicas fill their caches and wait.
    """

    def __init__(self, api: Api, settings: Settings, *, namespace: str | None = None) -> None:
        self.is_leader: Callable[[], bool] = lambda: True
        self._api = api
        self._events = EventRecorder(api, "kubeirq-functions")
        self._settings = settings
        self._namespace = namespace
        self._functions: InformerCache[Key, Object] = InformerCache()
        self._owned = OwnedObjects(api, OWNED_KINDS, label=FUNCTION_LABEL, namespace=namespace)
        self.synced = asyncio.Event()  # set after the first list
        self.queue: WorkQueue[Key] = WorkQueue(self.reconcile, expected=(Refused, OSError, TimeoutError))

    def watches(self) -> list[Watch]:
        """The watches of Functions and of the Deployments that they own."""
        return [
            Watch(GROUP, VERSION, "functions", self._on_function),
            Watch("apps", "v1", "deployments", self._on_deployment, FUNCTION_LABEL),
        ]

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.run())
            group.create_task(self._resync_periodically())

    def leader_changed(self) -> None:
        """Enqueues every Function, for a new leader to reconcile."""
        for key in self._functions:
            self.queue.add(key)

    async def resync(self) -> None:
        """Lists everything, and enqueues every Function."""
        self._functions.begin_list()
        functions = await self._api.list(f"{GROUP}/{VERSION}", "Function", self._namespace)
        self._functions.replace({key_of(found): (Version.of(found), found) for found in functions})
        await self._owned.refresh()
        for key in self._functions:
            self.queue.add(key)

    async def reconcile(self, key: Key) -> None:
        """Brings one Function's objects to their desired state. Raises the API server's errors."""
        function = self._functions.get(key)
        if function is None or "deletionTimestamp" in function["metadata"] or not self.is_leader():
            return  # the garbage collector deletes the objects of a deleted Function
        try:
            spec = FunctionSpec.model_validate(function["spec"]).named(key[1])
            wanted = objects_of(function["metadata"], spec, self._settings)
        except ValueError as error:
            await self._write_status(
                function, {}, [Condition("Ready", "False", "Invalid", problem_text(error, FunctionSpec))]
            )
            return
        try:
            if spec.scale.is_automatic:
                await self._hand_replicas_to_autoscaler(key)
            await self._owned.ensure(function, wanted)
        except Refused as refused:
            reason = "NameTaken" if isinstance(refused, NameTaken) else "Refused"
            await self._write_status(
                function, {}, [Condition("Ready", "False", reason, refusal_text(str(refused), spec))]
            )
            raise
        await self._remove_unwanted(function, wanted)
        deployment = self._owned.get(key, "Deployment", key[1]) or {}
        rolled_out = _is_rolled_out(deployment)
        # a list, not a watch, because a watch would cache every function's pods
        pods = [] if rolled_out else await self._api.list("v1", "Pod", key[0], {FUNCTION_LABEL: key[1]})
        source = None if rolled_out or spec.source.config_map is None else spec.source.config_map.name
        config_map = None if source is None else await self._api.get("v1", "ConfigMap", key[0], source)
        status, conditions = status_of(spec, deployment, pods, datetime.now(UTC), config_map)
        await self._write_status(function, status, conditions)
        if not rolled_out:
            self.queue.add_after(key, requeue_after(deployment, datetime.now(UTC)))

    async def _hand_replicas_to_autoscaler(self, key: Key) -> None:
        """Applies the replicas as another field manager. With no owner, the next apply would reset the field to 1."""
        live = self._owned.get(key, "Deployment", key[1])
        if live is None or "f:replicas" not in applied_fields(live, FIELD_MANAGER, "apps/v1").get("f:spec", {}):
            return
        head = {"name": key[1], "namespace": key[0]}
        kept = {"replicas": live["spec"]["replicas"]}
        await self._api.apply(
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": head, "spec": kept},
            manager=f"{FIELD_MANAGER}-scale",
        )

    async def _remove_unwanted(self, function: Object, wanted: list[Object]) -> None:
        """Removes the Function's other objects, except the code of the revisions that a rollback may need."""
        key = key_of(function)
        unwanted = self._owned.unwanted(function, wanted)
        if not unwanted:
            return
        sets = await self._api.list("apps/v1", "ReplicaSet", key[0], {FUNCTION_LABEL: key[1]})
        used = {name for found in sets for name in config_maps_of(found)}
        for found in unwanted:
            if found["kind"] != "ConfigMap" or found["metadata"]["name"] not in used:
                await self._owned.remove(found)

    async def _write_status(self, function: Object, status: Mapping[str, Any], conditions: list[Condition]) -> None:
        """Writes the status subresource if it differs."""
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
        # with the uid: a Function of the same name that was made since is refused the status of its predecessor
        head = {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]}
        try:
            found = await self._api.apply(
                {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Function", "metadata": head, "status": wanted},
                subresource="status",
            )
        except Refused as refused:
            if refused.status == 404:
                return  # deleted meanwhile
            raise
        self._functions.update(key_of(function), Version.of(found), found)
        if _desired_state(found) != _desired_state(function):
            self.queue.add(key_of(function))  # an edit came during the write, and the watch brings nothing newer
        if (event := event_for_transition(before.get("conditions", []), wanted["conditions"])) is not None:
            await self._events.record(found, event)

    async def _resync_periodically(self) -> None:
        while True:
            try:
                await self.resync()
                self.synced.set()
            except (Refused, OSError, TimeoutError):
                log.warning("resync failed", exc_info=True)
                await asyncio.sleep(5)
            else:
                await asyncio.sleep(RESYNC_SECONDS)

    def _on_function(self, event: Event) -> None:
        found = dict(event["object"])
        key, version = key_of(found), Version.of(found)
        if event["type"] == "DELETED":
            if self._functions.delete(key, version):
                self._owned.forget(key)
            return
        before = self._functions.get(key)
        if self._functions.update(key, version, found) and (
            before is None or _desired_state(before) != _desired_state(found)
        ):
            self.queue.add(key)

    def _on_deployment(self, event: Event) -> None:
        self.queue.add(self._owned.observe(event))


def _desired_state(function: Mapping[str, Any]) -> tuple[Any, ...]:
    """The parts of a Function that its objects depend on. They have its labels, and a label changes no generation."""
    metadata = function["metadata"]
    return metadata["uid"], metadata.get("generation"), metadata.get("labels"), metadata.get("deletionTimestamp")


def requeue_after(deployment: Mapping[str, Any], now: datetime) -> float:
    """Seconds until the next look at the pods. The longer the Deployment has not changed, the longer it is."""
    conditions = deployment.get("status", {}).get("conditions", [])
    updates = [datetime.fromisoformat(found["lastUpdateTime"]) for found in conditions if "lastUpdateTime" in found]
    minimum, maximum = REQUEUE_SECONDS
    return min(maximum, max(minimum, (now - max(updates, default=now)).total_seconds() / 2))


def refusal_text(text: str, spec: FunctionSpec) -> str:
    """The API server's message about the Deployment, with the Function's field names in place of the Deployment's."""
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


def _is_rolled_out(deployment: Mapping[str, Any]) -> bool:
    """Whether all replicas are ready and have the newest revision, so that the pods have no problem to show."""
    status, spec = deployment.get("status", {}), deployment.get("spec", {})
    return bool(
        status.get("observedGeneration") == deployment.get("metadata", {}).get("generation")
        and status.get("replicas", 0) == status.get("updatedReplicas", 0) == status.get("readyReplicas", 0)
        and status.get("readyReplicas", 0) == spec.get("replicas", 1)
    )
