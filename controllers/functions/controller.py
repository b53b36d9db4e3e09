"""The Function controller: reconciles the objects that run each Function, and writes the Function's status.

It is level-triggered: a watch event only puts the Function's key into the work queue. It writes only to objects that
differ from their desired state.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from controllers.cluster.api import FIELD_MANAGER, GROUP, VERSION, Api, Object, Refused, path_of
from controllers.cluster.conditions import Condition, conditions_of
from controllers.cluster.differences import applied_fields, contains, has_stale_fields
from controllers.cluster.events import EventRecorder, NewEvent, event_for_acceptance, event_for_transition
from controllers.cluster.ignorable_fields import ignorable_fields_of
from controllers.cluster.informer_cache import InformerCache, Version
from controllers.cluster.installations import Installations, installation_in_status
from controllers.cluster.known_fields import accepted, listed_in, validated
from controllers.cluster.lost_fields import LostFields
from controllers.cluster.operator import Event, Watch
from controllers.cluster.owned_objects import Contested, Key, NameTaken, OwnedObjects, key_of
from controllers.cluster.relist import WATCH_PATIENCE_SECONDS, relist
from controllers.cluster.work_queue import WorkQueue
from controllers.functions import callers
from controllers.functions.code import PAGE_SIZE as CODE_PAGE_SIZE
from controllers.functions.code import UNKNOWN, InvalidFunction, spec_and_code_of, without_texts
from controllers.functions.config_map import digest_of
from controllers.functions.pod_template import CONTENT_ANNOTATION, Settings
from controllers.functions.references import References
from controllers.functions.resource import FunctionSpec
from controllers.functions.rollouts import Rollouts
from controllers.functions.status import FUNCTION_LABEL, invalid, status_of, with_changes_of_others
from controllers.functions.workload import objects_of
from trigger_sources.observe.metrics import Metric, Sample
from trigger_sources.problems import problem_text

log = logging.getLogger(__name__)

RESYNC_SECONDS = 300.0  # finds missed deletions and manual changes of unwatched objects
INCOMPLETE_SECONDS = 30.0  # the same, after a resync in which the server refused to list a kind
CONCURRENT_RECONCILES = 16  # most of them wait for the API server; each may hold a megabyte of code
REQUEUE_SECONDS = (2.0, 60.0)  # minimum and maximum, for the pods of a Deployment that is not rolled out
_NOT_DECLARED = "field not declared in schema"  # in the API server's refusal of an apply
OWNED_KINDS = (
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    (callers.API_VERSION, callers.KIND),
)

RESTORED = NewEvent(
    "Warning",
    "Restored",
    "the Deployment was changed, for example by kubectl rollout undo, and has been set back to what the Function says;"
    " to go back to an earlier version, apply the earlier Function",
)


class Outdated(Exception):
    """The cached Function is older than the server's."""


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
        self._owned = OwnedObjects(api, OWNED_KINDS, label=FUNCTION_LABEL, namespace=namespace, immutable=["ConfigMap"])
        self._rollouts: Rollouts[Key] = Rollouts()
        self._restarts: dict[Key, int] = {}  # as last seen; it looks at pods while a Function is not ready
        self._references = References(api)
        self._ignorable: frozenset[str] = frozenset()  # the fields of the definition that a spec runs without
        self._lost = LostFields()
        self._curtailed: dict[Key, Object] = {}  # the written status, where the API server dropped a part of it
        self._written: dict[
            Key, str
        ] = {}  # the digest of the Deployment that this replica wanted last, and has written
        self._installations = Installations(api, settings.release, time.monotonic)
        self._named: dict[Key, Object] = {}  # the fields about installations that were written last
        self._gave_way: dict[Key, str] = {}  # the Functions that another installation runs, and its name
        self.synced = asyncio.Event()  # set after the first list
        self.queue: WorkQueue[Key] = WorkQueue(
            self.reconcile,
            name="functions",
            workers=CONCURRENT_RECONCILES,
            expected=(Refused, OSError, TimeoutError),
        )

    def watches(self) -> list[Watch]:
        """The watches of Functions, of the Deployments that they own, and of the ConfigMaps that are not theirs."""
        return [
            Watch(GROUP, VERSION, "functions", self._on_function, compact=without_texts, page_size=CODE_PAGE_SIZE),
            Watch("apps", "v1", "deployments", self._on_deployment, FUNCTION_LABEL),
            Watch("", "v1", "configmaps", self._on_config_map, f"!{FUNCTION_LABEL}", metadata_only=True),
        ]

    async def run(self) -> None:
        """Runs until it is cancelled. It writes nothing before everything is listed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resync_periodically())
            await self.synced.wait()
            group.create_task(self.queue.run())
            group.create_task(self._installations.contend(self._owned_by_others))

    def leader_changed(self, _: frozenset[int]) -> None:
        """Enqueues every Function, for a new leader to reconcile."""
        for key in self._functions:
            self.queue.add_for_resync(key)

    async def resync(self) -> bool:
        """Lists everything, and enqueues every Function. Returns whether all kinds of objects could be listed.

        A status of which the API server dropped a part is written again: the definition may be newer by now.
        """
        self._curtailed.clear()
        self._named.clear()
        if self._namespace is None:  # the rights of one namespace include no definitions
            self._ignorable = await ignorable_fields_of(self._api, f"functions.{GROUP}")
        self._functions.begin_list()
        self._functions.replace({key_of(found): (Version.of(found), found) async for found in self._listed()})
        is_whole = await self._owned.refresh()
        for key in self._functions:
            self.queue.add_for_resync(key)
        return is_whole

    async def _listed(self) -> AsyncIterator[Object]:
        """All Functions, without the texts of their code."""
        asked = relist(
            self._api,
            f"{GROUP}/{VERSION}",
            "Function",
            self._namespace,
            None,
            cached=lambda found: self._functions.get(key_of(found)),
            page_size=CODE_PAGE_SIZE,
            patience_seconds=WATCH_PATIENCE_SECONDS,
        )
        async for found in asked:
            yield without_texts(found)

    async def reconcile(self, key: Key) -> None:
        """Brings one Function's objects to their desired state. Raises the API server's errors."""
        function = self._functions.get(key)
        if function is None or "deletionTimestamp" in function["metadata"] or not self.is_leader():
            return  # the garbage collector deletes the objects of a deleted Function
        if (other := self._installations.other(function)) is not None:
            await self._give_way(function, other)
            return
        self._gave_way.pop(key, None)
        try:
            spec, code = spec_and_code_of(function, self._ignorable)
            content = await self._content_of(key, spec)
            wanted = objects_of(function["metadata"], spec, self._settings, code, content)
        except ValueError as error:
            reason = error.reason if isinstance(error, InvalidFunction) else "Invalid"
            await self._write_status(function, {}, invalid(problem_text(error, FunctionSpec), reason))
            return
        contested = ""
        try:
            if spec.scale.is_automatic:
                await self._hand_replicas_to_autoscaler(key)
            wanted = await self._with_texts(function, wanted, content)
            await self._ensure(function, self._paced(function, wanted))
        except Contested as problem:
            contested = str(problem)
        except Outdated:
            self.queue.add_after(key, REQUEUE_SECONDS[0])  # unless the watch is faster
            return
        except Refused as refused:
            reason = "NameTaken" if isinstance(refused, NameTaken) else "Refused"
            ready = Condition("Ready", "False", reason, refusal_text(str(refused), spec))
            await self._write_status(function, {}, [accepted(function.get(UNKNOWN, ())), ready])
            raise
        deployment = self._owned.get(key, "Deployment", key[1]) or {}
        rolled_out = _is_rolled_out(deployment)
        if rolled_out and all(self._owned.is_current(key, found) for found in wanted):
            self._rollouts.ended(key)
        for due in self._rollouts.due(len(self._functions), time.monotonic()):
            self.queue.add_for_resync(due)
        # a list, not a watch, because a watch would cache every function's pods
        pods = [] if rolled_out else await self._api.list("v1", "Pod", key[0], {FUNCTION_LABEL: key[1]})
        source = None if rolled_out or spec.source.config_map is None else spec.source.config_map.name
        config_map = None if source is None else await self._api.get("v1", "ConfigMap", key[0], source)
        status, conditions = status_of(spec, deployment, pods, datetime.now(UTC), config_map)
        if pods:
            self._restarts[key] = restarts_of(pods)
        conditions = [accepted(function.get(UNKNOWN, ())), *(each for each in conditions if each.type != "Accepted")]
        conditions = with_changes_of_others(conditions, self._overridden(key, wanted), contested)
        await self._write_status(function, status, conditions)
        if not rolled_out:
            self.queue.add_after(key, requeue_after(deployment, datetime.now(UTC)))
        await self._remove_unwanted(function, wanted)

    async def _ensure(self, function: Object, wanted: list[Object]) -> None:
        """Writes what differs. Tells the person who changed the Deployment that the change is undone."""
        key = key_of(function)
        deployment = next((found for found in wanted if found["kind"] == "Deployment"), None)
        if deployment is None:
            await self._owned.ensure(function, wanted)
            return
        digest = digest_of({"deployment": json.dumps(deployment, sort_keys=True)})
        live = self._owned.get(key, "Deployment", key[1])
        is_changed = (
            live is not None and self._written.get(key) == digest and not self._owned.is_current(key, deployment)
        )
        await self._owned.ensure(function, wanted)
        self._written[key] = digest
        # Where a webhook takes the mark away, too, nobody changes the Deployment, and nothing is set back
        if is_changed and self._owned.is_current(key, deployment):
            await self._events.record(function, RESTORED)

    def _overridden(self, key: Key, wanted: Sequence[Object]) -> list[str]:
        """The fields of the Function's objects that an admission webhook changes."""
        return [
            f"{found['kind']} {found['metadata']['name']}: {field}"
            for found in wanted
            for field in self._owned.overridden(key, found)
        ]

    def _owned_by_others(self) -> list[Object]:
        """The Functions of other installations that this replica would run."""
        if not self.is_leader():
            return []
        return [found for _, found in self._functions.items() if self._installations.other(found) is not None]

    async def _give_way(self, function: Object, other: str) -> None:
        key = key_of(function)
        if self._gave_way.get(key) == other:
            return
        self._gave_way[key] = other
        reason, message = self._installations.rejection(other)
        log.error("two installations", extra={"function": "/".join(key), "problem": message})
        await self._events.record(function, NewEvent("Warning", reason, message))

    async def _name_installation(self, function: Object) -> None:
        """Writes which installation runs the Function, and answers another one. An older definition drops it."""
        key, fields = key_of(function), self._installations.fields(function)
        if self._named.get(key) != fields and not contains(function.get("status", {}), fields):
            await self._installations.patch(function, fields)
            self._named[key] = fields

    async def _content_of(self, key: Key, spec: FunctionSpec) -> str:
        """The digest of the content that the Function refers to. While a part is missing, the last one stays."""
        digest = await self._references.digest_of(key, spec)
        if digest is None:
            live = self._owned.get(key, "Deployment", key[1]) or {}
            template = live.get("spec", {}).get("template", {}).get("metadata", {})
            digest = (template.get("annotations") or {}).get(CONTENT_ANNOTATION, "")
        return digest

    async def _with_texts(self, function: Object, wanted: list[Object], content: str) -> list[Object]:
        """The same objects. If the ConfigMap with the code has to be written, it has its texts. Raises Outdated."""
        key, metadata = key_of(function), function["metadata"]
        if all(found["kind"] != "ConfigMap" or self._owned.is_current(key, found) for found in wanted):
            return wanted
        whole = await self._api.get(function["apiVersion"], function["kind"], *key)
        if whole is None or any(whole["metadata"][name] != metadata[name] for name in ("uid", "generation")):
            raise Outdated(f"Function {key[1]!r} has changed; its watch brings the new spec")
        spec = validated(FunctionSpec, whole["spec"])[0].named(key[1])
        return objects_of(metadata, spec, self._settings, content=content)

    def _paced(self, function: Object, wanted: list[Object]) -> list[Object]:
        """The objects to write now: without a Deployment whose rollout waits. An edit of the author does not wait."""
        key, observed = key_of(function), function.get("status", {}).get("observedGeneration")
        deployment = next(found for found in wanted if found["kind"] == "Deployment")
        live = self._owned.get(key, "Deployment", key[1])
        is_own = observed == function["metadata"]["generation"]
        if live is None or not is_own or self._owned.is_current(key, deployment) or not changes_pods(live, deployment):
            return wanted
        waiting = self._rollouts.waiting
        if self._rollouts.may_start(key, len(self._functions), time.monotonic()):
            return wanted
        if not waiting:
            log.info("rollouts are paced: more Deployments differ than roll out at once", extra={"first": str(key)})
        return [found for found in wanted if found is not deployment]

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
        await self._owned.remove(
            [found for found in unwanted if found["kind"] != "ConfigMap" or found["metadata"]["name"] not in used]
        )

    async def _write_status(self, function: Object, status: Mapping[str, Any], conditions: list[Condition]) -> None:
        """Writes the status subresource if it differs."""
        await self._name_installation(function)
        conditions = self._installations.shown(function, conditions)
        metadata, present = function["metadata"], function.get("status", {})
        before = {name: value for name, value in present.items() if name != "installation"}  # is written by itself
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        wanted = {
            **status,
            "observedGeneration": metadata["generation"],
            "conditions": conditions_of(
                conditions, before.get("conditions", []), generation=metadata["generation"], now=now
            ),
        }
        key = key_of(function)
        if (contains(before, wanted) and contains(wanted, before)) or self._curtailed.get(key) == wanted:
            return
        try:
            found = await self._apply_status(function, wanted)
        except Refused as refused:
            if refused.status == 404:
                return  # deleted meanwhile
            raise
        found = without_texts(found)
        self._functions.update(key, Version.of(found), found)
        self._curtailed.pop(key, None)
        if self._lost.look("Function", wanted, found.get("status", {})):
            self._curtailed[key] = wanted
        if _desired_state(found) != _desired_state(function):
            self.queue.add(key)  # an edit came during the write, and the watch brings nothing newer
        was, now_has = before.get("conditions", []), wanted["conditions"]
        for event in (event_for_transition(was, now_has), event_for_acceptance(was, now_has)):
            if event is not None:
                await self._events.record(found, event)

    async def _apply_status(self, function: Object, wanted: Object) -> Object:
        """Returns the Function as the server has it then. Raises Refused."""
        api_version, metadata = f"{GROUP}/{VERSION}", function["metadata"]
        # with the uid: a Function of the same name that was made since is refused the status of its predecessor
        head = {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]}
        whole = {"apiVersion": api_version, "kind": "Function", "metadata": head, "status": wanted}
        try:
            return await self._api.apply(whole, subresource="status")
        except Refused as refused:
            if _NOT_DECLARED not in str(refused):
                raise
        # An older definition: an apply is refused as a whole, and a patch drops what the definition lacks
        stale = {name: None for name in function.get("status", {}) if name not in (*wanted, "installation")}
        return await self._api.request(
            "PATCH",
            f"{path_of(api_version, 'Function', *key_of(function))}/status",
            body={"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": {**stale, **wanted}},
            content_type="application/merge-patch+json",
        )

    def metrics(self) -> Iterator[Metric]:
        """The metrics of the Functions, beside those of every controller."""
        text = "Functions whose rollout waits, because others that no author asked for are under way"
        yield Metric.single("kubeirq_rollouts_waiting", "gauge", text, self._rollouts.waiting)
        yield Metric.single("kubeirq_functions", "gauge", "Functions", len(self._functions))
        text = "Restarts of a Function's containers in its present pods, as last seen while it was not ready"
        samples = [
            Sample("", {"namespace": namespace, "function": name}, count)
            for (namespace, name), count in self._restarts.items()
        ]
        yield Metric("kubeirq_function_restarts", "gauge", text, samples)

    async def _resync_periodically(self) -> None:
        said = ""
        while True:
            try:
                is_whole = await self.resync()
                self.synced.set()
            except (Refused, OSError, TimeoutError) as error:
                if said != (said := str(error) or repr(error)):
                    log.warning("resync failed", extra={"problem": said})
                await asyncio.sleep(5)
            else:
                said = ""
                await asyncio.sleep(RESYNC_SECONDS if is_whole else INCOMPLETE_SECONDS)

    def _on_function(self, event: Event) -> None:
        found = without_texts(event["object"])
        key, version = key_of(found), Version.of(found)
        if event["type"] == "DELETED":
            if self._functions.delete(key, version):
                self._owned.forget(key)
                self._rollouts.ended(key)
                self._restarts.pop(key, None)
                self._references.forget(key)
                self._named.pop(key, None)
                self._gave_way.pop(key, None)
                self._curtailed.pop(key, None)
                self._written.pop(key, None)
            return
        before = self._functions.get(key)
        if self._functions.update(key, version, found) and (
            before is None or _desired_state(before) != _desired_state(found)
        ):
            self.queue.add(key)

    def _on_config_map(self, event: Event) -> None:
        for key in self._references.observe(event):
            self.queue.add(key)

    def _on_deployment(self, event: Event) -> None:
        self.queue.add(self._owned.observe(event))


def _desired_state(function: Mapping[str, Any]) -> tuple[Any, ...]:
    """The parts of a Function that a reconcile depends on. Labels, annotations and status change no generation."""
    metadata = function["metadata"]
    changes = (metadata.get(name) for name in ("generation", "labels", "deletionTimestamp"))
    return metadata["uid"], *changes, listed_in(function), installation_in_status(function)


def changes_pods(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a write of the Deployment replaces its pods."""
    return not contains(live["spec"]["template"], wanted["spec"]["template"]) or has_stale_fields(
        live, wanted, FIELD_MANAGER
    )


def restarts_of(pods: Sequence[Mapping[str, Any]]) -> int:
    """The restarts of all containers of these pods."""
    return sum(
        container.get("restartCount", 0)
        for pod in pods
        for container in pod.get("status", {}).get("containerStatuses") or ()
    )


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
