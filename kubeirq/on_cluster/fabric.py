"""The fabric of a cluster, asked with the rights of whoever asks: its resources first, its controllers where needed."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from controllers.functions.status import FUNCTION_LABEL, PORT
from kubeirq.fabric_client import Answer, Description, Named, Overview, Published, Refused, chosen, one_of
from kubeirq.on_cluster.connection import Cluster, NoRight, cluster
from kubeirq.on_cluster.logs import lines_of_pods
from kubeirq.on_cluster.merged import flows_of, merged, worst_of
from kubeirq.on_cluster.replicas import NoAnswer, Replica, ask, ask_for_lines, component_of, replicas_of
from kubeirq.on_cluster.resources import FUNCTION, Kind, kinds_of, listed, named, worst_first
from kubeirq.output.log_lines import line_about
from kubeirq.output.texts import age
from kubeirq.output.trigger_text import advice_for, condition_lines, flow_lines

FIELD_MANAGER = "kubeirq"
_FEW_LETTERS = 500  # that they are listed to be counted
_TRIGGER_COLUMNS = ("TRIGGER", "CALLS", "READY", "SINCE", "MESSAGE")
_FUNCTION_COLUMNS = ("FUNCTION", "READY", "RUNTIME", "REPLICAS", "SINCE", "MESSAGE")


@asynccontextmanager
async def on_cluster(
    context: str | None, kubeconfig: Path | None, namespace: str | None, system_namespace: str | None, *, say: bool
) -> AsyncIterator["OnCluster"]:
    """`say`: which cluster it is, on standard error, since nobody named one. Raises NotRunning."""
    async with cluster(context, kubeconfig, namespace) as found:
        if say:
            click.echo(f"(cluster of context {found.context}, namespace {found.namespace})", err=True)
        yield OnCluster(found, system_namespace)


class OnCluster:
    """`asked.Asked`, for a cluster."""

    def __init__(self, cluster: Cluster, system_namespace: str | None) -> None:
        self._cluster = cluster
        self._system_namespace = system_namespace
        self._where = f" in namespace {cluster.namespace}"

    # --- what the resources tell

    async def overview(self, what: str | None, everywhere: bool) -> Overview:
        kinds = await kinds_of(self._cluster)
        found, problems = await listed(self._cluster, kinds, None if everywhere else self._cluster.namespace)
        for problem in problems:
            click.echo(f"(not shown: {problem})", err=True)
        known = [named(one) for one in found]
        shown = sorted(
            chosen(known, _long(what, kinds), [kind.name for kind in kinds], "" if everywhere else self._where),
            key=worst_first,
        )
        functions = [one for one in shown if one["kind"] == FUNCTION]
        triggers = [one for one in shown if one["kind"] != FUNCTION]
        where = ("NAMESPACE",) if everywhere else ()
        return Overview(
            {"functions": functions, "triggers": triggers},
            [
                ((*where, *_TRIGGER_COLUMNS), [_row(one, _trigger_cells(one), everywhere) for one in triggers]),
                ((*where, *_FUNCTION_COLUMNS), [_row(one, _function_cells(one), everywhere) for one in functions]),
            ],
            all(one["ready"] for one in shown),
        )

    async def describe(self, name: str) -> Description:
        found = one_of(await self._found(), name, self._where)
        lines = [f"{found['kind']} {found['namespace']}/{found['name']}"]
        if found["kind"] == FUNCTION:
            lines += condition_lines(found["conditions"]) or [f"  {found['message']}"]
            replicas = f"{found['readyReplicas']} of {found['replicas']} ready"
            told = {"runtime": found["runtime"], "handler": found["handler"], "replicas": replicas, "url": found["url"]}
            lines += [f"  {label:10} {value}" for label, value in told.items() if value]
            if not found["ready"]:
                lines.append(f"  next: kubeirq logs {found['name']}")
            return Description(found, lines)
        asked, answered = await self._flows_told(found)
        conditions = worst_of([found["conditions"], *(flow.get("conditions", []) for flow in asked["flows"])])
        found = {**found, "conditions": conditions}
        lines.append(f"  calls {found['function']}")
        if found["address"]:
            lines.append(f"  called at {found['address']}")
        lines += condition_lines(conditions) or [f"  {found['message']}"]
        if found["nextRuns"]:
            lines.append(f"  next runs {', '.join(found['nextRuns'])}")
        lines += answered
        advice = [
            line
            for flow in asked["flows"] or [{"function": found["function"], "deadLetters": 0}]
            for line in advice_for({**found, **flow})
        ]
        return Description({**found, **asked}, [*lines, *(f"  next: {line}" for line in dict.fromkeys(advice))])

    async def call(self, function: str, body: bytes, content_type: str) -> Answer:
        found = one_of([one for one in await self._found([FUNCTION]) if one["kind"] == FUNCTION], function, self._where)
        available = next((one for one in found["conditions"] if one["type"] == "Available"), None)
        if available is None or available["status"] != "True":
            raise Refused(
                f"function {found['name']!r} is not ready: {found['reason']}: {found['message']}".rstrip(": ")
            )
        headers = {
            "content-type": content_type,
            "ce-specversion": "1.0",
            "ce-id": str(uuid.uuid4()),
            "ce-type": "dev.kubeirq.call",
            "ce-source": "/kubeirq/call",
        }
        path = f"/api/v1/namespaces/{found['namespace']}/services/{found['name']}:{PORT}/proxy/"
        async with self._cluster.stream("POST", path, headers=headers, body=body) as answer:
            answered = await answer.read()
            if (problem := _server_says(answer.status, answered)) is not None:
                raise problem
            return Answer(answer.status, answered)

    async def publish(self, trigger: str, body: bytes, content_type: str, key: str | None, count: int) -> Published:
        found = await self.trigger(trigger)
        raise Refused(
            f"{found['name']}: on a cluster, publish with a client of its source, where that can be reached; "
            f"`kubeirq call {found['function']}` calls the function itself"
        )

    async def logs(self, name: str, tail: int, follow: bool) -> AsyncIterator[str]:
        found = one_of(await self._found(), name, self._where)
        if found["kind"] == FUNCTION:
            labels = {FUNCTION_LABEL: found["name"]}
            lines = lines_of_pods(self._cluster, found["namespace"], labels, tail, follow)
        else:
            component = component_of(found["kind"])
            replicas = await replicas_of(self._cluster, component, self._system_namespace)
            labels = {"app.kubernetes.io/name": "kubeirq", "app.kubernetes.io/component": component}
            trigger = f"{found['namespace']}/{found['name']}"
            lines = lines_of_pods(
                self._cluster, replicas[0].namespace, labels, tail, follow, lambda line: line_about(line, trigger)
            )
        async for line in lines:
            yield line

    async def trigger(self, name: str) -> Named:
        return one_of([one for one in await self._found() if one["kind"] != FUNCTION], name, self._where)

    async def suspend(self, trigger: Named) -> None:
        await self._set_suspended(trigger, True)

    async def resume(self, trigger: Named) -> None:
        """Where it is suspended that is all; else everything may have failed, and its controller is told to go on."""
        if trigger["suspended"]:
            return await self._set_suspended(trigger, False)
        for replica in await self._holders(trigger):
            await self._told(ask(self._cluster, replica, "POST", f"{_path(trigger)}/resume"), replica)
        return None

    # --- what the controllers tell

    async def dead_letters(self, trigger: Named, limit: int) -> list[dict[str, Any]]:
        answer = await self._ask_holder(trigger, "GET", f"{_path(trigger)}/dead-letters", limit=str(limit))
        found: list[dict[str, Any]] = answer["deadLetters"]
        return found

    async def dead_letter(self, trigger: Named, identity: str) -> dict[str, Any]:
        path = f"{_path(trigger)}/dead-letters/show"
        found: dict[str, Any] = await self._ask_holder(trigger, "GET", path, identity=identity)
        return found

    async def redrive(self, trigger: Named, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        (replica, *_) = await self._holders(trigger)
        path = f"{_path(trigger)}/dead-letters/redrive"
        try:
            async for line in ask_for_lines(self._cluster, replica, "POST", path, request):
                yield line
        except NoAnswer as error:
            raise Refused(f"replica {replica.name}: {error}; look with `dead-letters list` what is left") from error

    async def purge(self, trigger: Named, identities: Sequence[str] | None) -> int:
        path = f"{_path(trigger)}/dead-letters/purge"
        answer = await self._ask_holder(trigger, "POST", path, {"identities": identities})
        return int(answer["purged"])

    async def lanes(self, trigger: Named) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for replica in await self._holders(trigger):
            answer = await self._told(ask(self._cluster, replica, "GET", f"{_path(trigger)}/lanes"), replica)
            found += [{**lane, "replica": replica.name} for lane in answer["lanes"]]
        return found

    async def act_on_lanes(self, trigger: Named, verb: str, key: str | None) -> int:
        count = 0
        for replica in await self._holders(trigger):
            path = f"{_path(trigger)}/lanes/{verb}"
            answer = await self._told(ask(self._cluster, replica, "POST", path, {"key": key}), replica)
            count += int(answer["lanes"])
        return count

    # --- helpers

    async def _found(self, only: Sequence[str] | None = None) -> list[Named]:
        kinds = [kind for kind in await kinds_of(self._cluster) if only is None or kind.name in only]
        found, _ = await listed(self._cluster, kinds, self._cluster.namespace)
        return [named(one) for one in found]

    async def _set_suspended(self, trigger: Named, suspended: bool) -> None:
        kind = next(kind for kind in await kinds_of(self._cluster) if kind.name == trigger["kind"])
        await self._cluster.patch(
            kind.path(trigger["namespace"], trigger["name"]),
            {"spec": {"suspend": suspended}},
            "application/merge-patch+json",
            [("fieldManager", FIELD_MANAGER)],
        )

    async def _flows_told(self, trigger: Named) -> tuple[dict[str, Any], list[str]]:
        """What the trigger's controller knows of it, as values and as lines; that it cannot be asked is a line, too."""
        try:
            replicas = await replicas_of(self._cluster, component_of(trigger["kind"]), self._system_namespace)
            statuses, problems = await self._statuses(replicas)
        except Refused as error:
            return {"flows": [], "replicas": []}, [f"  (lag, held events and dead letters are not known: {error})"]
        by_replica = {name: flows_of(status, trigger["uid"]) for name, status in statuses.items()}
        flows = merged([flow for found in by_replica.values() for flow in found])
        holders = [replica for replica in replicas if by_replica.get(replica.name)]
        if holders and sum(flow["deadLetters"] for flow in flows) <= _FEW_LETTERS:
            await self._count_letters(trigger, holders[0], flows)
        lines: list[str] = []
        for flow in flows:
            lines += [f"  of {flow['function']}"] if len(flows) > 1 else []
            lines += flow_lines(flow)
        told: list[dict[str, Any]] = []
        for replica in replicas:
            problem = problems.get(replica.name, "")
            held = sum(flow["held"] for flow in by_replica.get(replica.name, []))
            runs = bool(by_replica.get(replica.name))
            told.append({"name": replica.name, "runs": runs, "held": held, "problem": problem})
            word = f"no answer: {problem}" if problem else f"held {held}" if runs else "does not run it"
            lines.append(f"  replica {replica.name}: {word}")
        return {"flows": flows, "replicas": told}, lines

    async def _count_letters(self, trigger: Named, holder: Replica, flows: Sequence[dict[str, Any]]) -> None:
        """A replica counts those that it wrote itself, since it started: few of them are counted where they are."""
        path = f"{_path(trigger)}/dead-letters"
        with suppress(NoAnswer, Refused):
            letters = (await ask(self._cluster, holder, "GET", path, limit=str(2 * _FEW_LETTERS)))["deadLetters"]
            counts = Counter(letter["function"] for letter in letters)
            for flow in flows:
                flow["deadLetters"] = counts[flow["function"]]

    async def _statuses(self, replicas: Sequence[Replica]) -> tuple[dict[str, Any], dict[str, str]]:
        """By replica, and what is wrong with those that did not answer. Raises NoRight."""
        answers = await asyncio.gather(
            *(ask(self._cluster, replica, "GET", "/v1/status") for replica in replicas), return_exceptions=True
        )
        statuses: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for replica, answer in zip(replicas, answers, strict=True):
            if isinstance(answer, NoAnswer):
                problems[replica.name] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                statuses[replica.name] = answer
        return statuses, problems

    async def _holders(self, trigger: Named) -> list[Replica]:
        """The replicas that run it. Raises Refused when none does; those that cannot be asked are named."""
        replicas = await replicas_of(self._cluster, component_of(trigger["kind"]), self._system_namespace)
        statuses, problems = await self._statuses(replicas)
        found = [
            replica for replica in replicas if flows_of(statuses.get(replica.name, {"triggers": []}), trigger["uid"])
        ]
        missing = [f"replica {name} did not answer: {problem}" for name, problem in sorted(problems.items())]
        if not found:
            why = "; ".join(missing) or f"{trigger['reason']}: {trigger['message']}"
            raise Refused(f"no replica runs {trigger['kind']}/{trigger['name']} just now: {why}")
        for line in missing:
            click.echo(f"({line})", err=True)
        return found

    async def _ask_holder(self, trigger: Named, method: str, path: str, body: Any = None, **query: str) -> Any:
        """What is kept outside of the replicas, any of them that runs the trigger can tell."""
        (replica, *_) = await self._holders(trigger)
        return await self._told(ask(self._cluster, replica, method, path, body, **query), replica)

    async def _told(self, asking: Any, replica: Replica) -> Any:
        try:
            return await asking
        except NoAnswer as error:
            raise Refused(f"replica {replica.name}: {error}") from error


def _long(what: str | None, kinds: Sequence[Kind]) -> str | None:
    """A kind's name for its short one."""
    return next((kind.name for kind in kinds if what in (*kind.short_names, kind.plural)), what)


def _path(trigger: Named) -> str:
    return "/v1/triggers/" + "/".join(quote(trigger[part]) for part in ("namespace", "kind", "name"))


def _row(found: Named, cells: Sequence[Any], everywhere: bool) -> Sequence[Any]:
    where = (found["namespace"],) if everywhere else ()
    return *where, *cells, age(found["since"]), found["message"] or "-"


def _trigger_cells(found: Named) -> Sequence[Any]:
    return f"{found['kind']}/{found['name']}", found["function"], _ready(found)


def _function_cells(found: Named) -> Sequence[Any]:
    return found["name"], _ready(found), found["runtime"], f"{found['readyReplicas']}/{found['replicas']}"


def _ready(found: Named) -> str:
    return "True" if found["ready"] else str(found["reason"])


def _server_says(status: int, body: bytes) -> Refused | None:
    """What the API server itself answered in place of the function, if it did."""
    if status < 400:
        return None
    try:
        found = json.loads(body)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("kind") != "Status" or found.get("apiVersion") != "v1":
        return None
    if status == 403:
        return NoRight(f"no right: {found.get('message')}")
    return Refused(f"the function cannot be reached: {found.get('message')}")
