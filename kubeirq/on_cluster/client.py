"""The client of a cluster's fabric. It uses the user's own rights: first the resources, then the controllers."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from controllers.functions.status import FUNCTION_LABEL
from kubeirq import name_lookup
from kubeirq.fabric_client import (
    Answer,
    Description,
    Overview,
    Published,
    Refused,
    ResourceView,
    lanes_request,
)
from kubeirq.message import Message
from kubeirq.name_lookup import find_all, find_logged, find_one, namespace_in, select
from kubeirq.on_cluster.connection import Cluster, NotFound, Object, connect
from kubeirq.on_cluster.controller_client import ControllerClient
from kubeirq.on_cluster.function_call import call_function
from kubeirq.on_cluster.last_edits import last_edits, references_in
from kubeirq.on_cluster.merge_flows import worst_conditions
from kubeirq.on_cluster.pod_logs import pod_log_records
from kubeirq.on_cluster.replicas import component_of
from kubeirq.on_cluster.resource_text import (
    called_lines,
    controller_lines,
    event_lines,
    function_lines,
    tables,
    trigger_lines,
)
from kubeirq.on_cluster.resources import (
    FUNCTION,
    Kind,
    installed_kinds,
    list_resources,
    view_of,
    warnings_in,
    worst_first,
)
from kubeirq.output.fabric_log_lines import record_about
from kubeirq.output.function_steps import function_steps
from kubeirq.output.letter_text import tell_unreadable
from kubeirq.output.trigger_lines import (
    ABOUT_LANES,
    failing_lines,
    in_namespace,
    next_steps,
    stuck_lane_lines,
    value_lines,
)

FIELD_MANAGER = "kubeirq"
_MOST_REFERENCES = 10  # Secrets and ConfigMaps in one `describe`
_ONLY_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@asynccontextmanager
async def open_cluster(
    context: str | None, kubeconfig: Path | None, namespace: str | None, system_namespace: str | None, *, announce: bool
) -> AsyncIterator["ClusterClient"]:
    """`announce`: write to standard error which cluster this is. Raises FabricUnreachable."""
    async with connect(context, kubeconfig, namespace) as cluster:
        if announce:
            click.echo(f"(cluster of context {cluster.context}, namespace {cluster.namespace})", err=True)
        yield ClusterClient(cluster, system_namespace)


class ClusterClient:
    """Implements `fabric_client.FabricClient` for a cluster."""

    def __init__(self, cluster: Cluster, system_namespace: str | None) -> None:
        self._cluster = cluster
        self._controllers = ControllerClient(cluster, system_namespace)

    async def overview(self, selector: str | None, all_namespaces: bool) -> Overview:
        kinds = await installed_kinds(self._cluster)
        namespace = None if all_namespaces else self._namespace_of(selector or "", kinds)
        found, problems = await list_resources(self._cluster, kinds, namespace)
        for problem in problems:
            click.echo(f"(not shown: {problem})", err=True)
        if not found and namespace is not None:
            await self._check_namespace(namespace)
        where = "" if namespace is None else _in(namespace)
        selected = select(
            [view_of(one) for one in found], _full_kind(selector, kinds), [kind.name for kind in kinds], where
        )
        views = sorted(selected, key=worst_first)
        return Overview(
            {
                "functions": [view for view in views if view["kind"] == FUNCTION],
                "triggers": [view for view in views if view["kind"] != FUNCTION],
            },
            tables(views, all_namespaces),
            all(view["ready"] for view in views),
        )

    async def describe(self, name: str) -> Sequence[Description]:
        found, where = await self._objects(name)
        views = [view_of(one) for one in found]
        by_uid = {one["metadata"]["uid"]: one for one in found}
        functions = {view["name"]: view for view in views if view["kind"] == FUNCTION}
        return [
            await self._described_function(view, by_uid[view["uid"]])
            if view["kind"] == FUNCTION
            else await self._described_trigger(view, by_uid, functions)
            for view in find_all(views, name, where=where)
        ]

    async def _described_function(self, view: ResourceView, found: Object) -> Description:
        events = await self._warnings_about(view)
        steps = self._next_lines(function_steps(view, bool(events)), view)
        lines = [*function_lines(view), *event_lines(events, view["message"]), *await self._edit_lines([found]), *steps]
        return Description({**view, "events": events}, lines)

    async def _described_trigger(
        self, view: ResourceView, objects: Mapping[str, Object], functions: Mapping[str, ResourceView]
    ) -> Description:
        own = objects[view["uid"]]
        called = [functions[name] for name in str(view["function"]).split(", ") if name in functions]
        state = await self._controllers.state(view)
        conditions = worst_conditions([*(flow.get("conditions", []) for flow in state.flows), view["conditions"]])
        view = {**view, "conditions": conditions}
        if state.problem:
            own_lines = [f"  (lag, held events and dead letters are not known: {state.problem})"]
        else:
            own_lines = [*await self._detail_lines(view, state.flows), *controller_lines(state.flows, state.replicas)]
        steps = [
            step
            for flow in state.flows or [{"function": view["function"], "deadLetters": 0}]
            for step in next_steps({**view, **flow})
        ]
        lines = trigger_lines(view, own.get("spec", {}), own_lines)
        for function in called:
            events = await self._warnings_about(function)
            lines += called_lines(function, events)
            if not function["ready"]:
                steps += function_steps(function, bool(events))
        lines += await self._edit_lines([own, *(objects[function["uid"]] for function in called)])
        lines += self._next_lines(steps, view)
        return Description({**view, "flows": list(state.flows), "replicas": list(state.replicas)}, lines)

    async def call(self, function: str, message: Message) -> Answer:
        functions, where = await self._views(function, lambda kind: kind == FUNCTION)
        view = find_one(functions, function, name_lookup.FUNCTION, where)
        available = next((one for one in view["conditions"] if one["type"] == "Available"), None)
        if available is None or available["status"] != "True":
            raise Refused(f"function {view['name']!r} is not ready: {view['reason']}: {view['message']}".rstrip(": "))
        headers = {
            **message.event_headers("call"),
            **message.headers,
            "content-type": message.content_type,
            "kubeirq-attempt": "1",  # the function may tell this caller why it fails
        }
        return await call_function(self._cluster, view["namespace"], view["name"], headers, message.body)

    async def publish(self, trigger: str, message: Message, count: int) -> Published:
        view = await self.trigger(trigger)
        if view["kind"] == "CronTrigger":
            raise Refused(f"{view['name']}: nothing can be published to it; `kubeirq fire {view['name']}` runs it now")
        raise Refused(
            f"{view['name']}: `kubeirq publish` works only on this machine; on a cluster, use a client of the source, "
            f"or call the function with `kubeirq call {view['function']}`"
        )

    async def fire(self, trigger: ResourceView) -> Sequence[Mapping[str, Any]]:
        answer = await self._controllers.request_one(trigger, "POST", "fire")
        found: Sequence[Mapping[str, Any]] = answer["fired"]
        return found

    async def logs(self, name: str, tail: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        views, where = await self._views(name)
        view = find_logged(views, name, where)
        if view["kind"] == FUNCTION:
            labels = {FUNCTION_LABEL: view["name"]}
            records = pod_log_records(self._cluster, view["namespace"], labels, tail, follow)
        else:
            replicas = await self._controllers.replicas(view["kind"])
            labels = {"app.kubernetes.io/name": "kubeirq", "app.kubernetes.io/component": component_of(view["kind"])}
            trigger = f"{view['namespace']}/{view['name']}"
            records = pod_log_records(
                self._cluster, replicas[0].namespace, labels, tail, follow, lambda line: record_about(line, trigger)
            )
        async for record in records:
            yield record

    async def trigger(self, name: str) -> ResourceView:
        triggers, where = await self._views(name, lambda kind: kind != FUNCTION)
        return find_one(triggers, name, name_lookup.TRIGGER, where)

    async def failing(self, triggers: Sequence[ResourceView]) -> Sequence[str]:
        lines: list[str] = []
        for one in triggers:
            state = await self._controllers.state(one)
            found = [f"not known: {state.problem}"] if state.problem else []
            found += [line for flow in state.flows for line in failing_lines(flow)]
            lines += [f"{one['kind']}/{one['name']}: {line}" for line in found]
        return lines

    async def suspend(self, trigger: ResourceView) -> None:
        await self._set_suspended(trigger, True)

    async def resume(self, trigger: ResourceView) -> None:
        """Resumes a suspended trigger. One that is not suspended may hold its events because every call fails: then the
        replicas that run it continue.
        """
        if trigger["suspended"]:
            await self._set_suspended(trigger, False)
        else:
            await self._controllers.request_all(trigger, "POST", "resume")

    async def dead_letters(self, trigger: ResourceView, limit: int) -> list[dict[str, Any]]:
        answer = await self._controllers.request_one(trigger, "GET", "dead-letters", limit=str(limit))
        tell_unreadable(answer)
        found: list[dict[str, Any]] = answer["deadLetters"]
        return found

    async def dead_letter(self, trigger: ResourceView, identity: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._controllers.request_one(
            trigger, "GET", "dead-letters/show", identity=identity
        )
        return found

    async def redrive(self, trigger: ResourceView, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async for line in self._controllers.redrive(trigger, request):
            yield line

    async def purge(self, trigger: ResourceView, identities: Sequence[str] | None) -> tuple[int, Sequence[str]]:
        answer = await self._controllers.request_one(trigger, "POST", "dead-letters/purge", {"identities": identities})
        tell_unreadable(answer)
        return int(answer["purged"]), answer.get("missing", ())

    async def lanes(self, trigger: ResourceView) -> list[dict[str, Any]]:
        answers = await self._controllers.request_all(trigger, "GET", "lanes")
        return [{**lane, "replica": name} for name, answer in answers for lane in answer["lanes"]]

    async def act_on_lanes(self, trigger: ResourceView, verb: str, lane: str | None) -> int:
        answers = await self._controllers.request_all(trigger, "POST", f"lanes/{verb}", lanes_request(lane))
        return sum(int(answer["lanes"]) for _, answer in answers)

    async def _views(
        self, name: str, wanted: Callable[[str], bool] = lambda kind: True
    ) -> tuple[list[ResourceView], str]:
        objects, where = await self._objects(name, wanted)
        return [view_of(one) for one in objects], where

    async def _objects(self, name: str, wanted: Callable[[str], bool] = lambda kind: True) -> tuple[list[Object], str]:
        """The resources of the wanted kinds in the namespace that the name means; and where that is, for errors."""
        kinds = await installed_kinds(self._cluster)
        namespace = self._namespace_of(name, kinds)
        found, _ = await list_resources(self._cluster, [kind for kind in kinds if wanted(kind.name)], namespace)
        return found, _in(namespace)

    def _namespace_of(self, name: str, kinds: Sequence[Kind]) -> str:
        return namespace_in(name, [kind.name for kind in kinds]) or self._cluster.namespace

    async def _detail_lines(self, view: ResourceView, flows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The keys of lanes that wait, and values that a filter saw: only for a user who has the right to see them."""
        lines: list[str] = []
        with suppress(Refused):
            if any(one["reason"] in ABOUT_LANES for flow in flows for one in flow["conditions"]):
                lines += stuck_lane_lines(await self.lanes(view))
        with suppress(Refused):
            if any(flow["filteredInARow"] for flow in flows):
                answers = await self._controllers.request_all(view, "GET", "filtered")
                lines += value_lines([one for _, answer in answers for one in answer["filtered"]])
        return lines

    async def _edit_lines(self, objects: Sequence[Object]) -> list[str]:
        """The last edits of these resources, and of Secrets and ConfigMaps that they name, if the user may get those.

        It asks for the metadata of those only.
        """
        found = {f"{one['kind']} {one['metadata']['name']}": one["metadata"] for one in objects}
        named = {
            (kind, one["metadata"]["namespace"], name)
            for one in objects
            for kind, name in references_in(one.get("spec"))
        }
        for kind, namespace, name in sorted(named)[:_MOST_REFERENCES]:
            path = f"/api/v1/namespaces/{namespace}/{kind.lower()}s/{quote(name, safe='')}"
            with suppress(Refused):
                found[f"{kind} {name}"] = (await self._cluster.get(path, accept=_ONLY_METADATA))["metadata"]
        edits = [(edit, what) for what, metadata in found.items() for edit in last_edits(metadata)]
        return [edit.line(what) for edit, what in sorted(edits, key=lambda one: -one[0].at)]

    def _next_lines(self, steps: Sequence[str], view: ResourceView) -> list[str]:
        namespace = view["namespace"] if view["namespace"] != self._cluster.own_namespace else None
        return [f"  next: {in_namespace(step, namespace)}" for step in dict.fromkeys(steps)]

    async def _check_namespace(self, namespace: str) -> None:
        """Raises Refused if there is no such namespace, as far as the user may know."""
        try:
            await self._cluster.get(f"/api/v1/namespaces/{quote(namespace, safe='')}")
        except NotFound as error:
            raise Refused(f"there is no namespace {namespace!r}") from error
        except Refused:
            pass

    async def _warnings_about(self, view: ResourceView) -> list[dict[str, Any]]:
        """The last Events of type Warning about the resource, the newest first; none without the right to list them."""
        about = {"involvedObject.kind": view["kind"], "involvedObject.name": view["name"], "type": "Warning"}
        selector = quote(",".join(f"{field}={value}" for field, value in about.items()))
        try:
            found = await self._cluster.get(f"/api/v1/namespaces/{view['namespace']}/events?fieldSelector={selector}")
        except Refused:
            return []
        return warnings_in(found["items"], view["uid"])

    async def _set_suspended(self, trigger: ResourceView, suspended: bool) -> None:
        kind = next(kind for kind in await installed_kinds(self._cluster) if kind.name == trigger["kind"])
        await self._cluster.patch(
            kind.path(trigger["namespace"], trigger["name"]),
            {"spec": {"suspend": suspended}},
            "application/merge-patch+json",
            [("fieldManager", FIELD_MANAGER)],
        )


def _in(namespace: str) -> str:
    return f" in namespace {namespace}"


def _full_kind(selector: str | None, kinds: Sequence[Kind]) -> str | None:
    """The kind's name for its short name or plural; any other selector unchanged."""
    return next((kind.name for kind in kinds if selector in (*kind.short_names, kind.plural)), selector)
