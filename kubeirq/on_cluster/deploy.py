"""Makes a cluster have the resources of files, and waits until they are as they should be."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from controllers.cluster.api import path_of
from controllers.functions.status import FUNCTION_LABEL
from kubeirq.fabric_client import NotRunning, Refused
from kubeirq.manifests import Resources, load
from kubeirq.on_cluster.bundle import objects_of, of_other_namespaces, without_function
from kubeirq.on_cluster.connection import Cluster, NoRight, NotThere, Object
from kubeirq.on_cluster.logs import log_of, past_lines
from kubeirq.on_cluster.resources import FUNCTION, Kind, kinds_of, listed, ready_condition
from kubeirq.output.texts import many
from trigger_sources.problems import Problem

FIELD_MANAGER = "kubeirq-deploy"
_LOOK_SECONDS = 1.0
_LAST_LINES = 15
_AS_WANTED = ("Suspended", "Completed")  # not Ready, and nothing is to be waited for
_FOR_GOOD = ("Invalid", "NameTaken", "Refused")  # no waiting helps
_UNSEEN = "no controller has looked at it yet"
_UNSEEN_SECONDS = 3.0  # that is no news

Write = Callable[[str], None]
Name = tuple[str, str, str]  # kind, namespace, name


class Problems(Exception):
    """Something is wrong with the files: all of it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, sorted(problems))))


@dataclass(frozen=True)
class How:
    """What was asked for beside the files."""

    dry_run: bool = False
    force: bool = False  # take over fields that others have set
    timeout_seconds: float | None = 180  # None: nothing is waited for
    only_namespace: str | None = None  # that every resource has to be in


async def deploy(
    cluster: Cluster, paths: Sequence[Path], secrets: Path | None, how: How, write: Write, complain: Write
) -> bool:
    """Whether all went well: what did not was complained of. Raises Problems before anything is done, Refused."""
    kinds = await kinds_of(cluster)
    objects = await _objects(cluster, kinds, paths, secrets, how)
    names = sorted({one["metadata"]["namespace"] for one in objects})
    complain(f"(cluster of context {cluster.context}, namespace {', '.join(names)})")
    refused = 0
    for wanted in objects:
        try:
            write(f"{_shown(wanted)}: {await _apply(cluster, kinds, wanted, how)}")
        except Refused as error:
            refused += 1
            complain(f"{_shown(wanted)}: {_words(str(error))}")
    if refused:
        complain(f"{refused} of {many(len(objects), 'object')} refused")
        return False
    if how.dry_run or how.timeout_seconds is None:
        return True
    unready = await _until_ready(cluster, kinds, objects, how.timeout_seconds, write)
    if not unready:
        write(f"all of {many(len(objects), 'object')} there and Ready")
        return True
    for name, state in unready.items():
        complain(f"{name[0]}/{name[2]} is not Ready: {state}")
        for line in await _last_words(cluster, name):
            complain(f"    {line}")
    return False


async def _objects(
    cluster: Cluster, kinds: Sequence[Kind], paths: Sequence[Path], secrets: Path | None, how: How
) -> list[Object]:
    resources, problems = load(paths, secrets, namespace=cluster.namespace, whole=False)
    if how.only_namespace is not None:
        problems += of_other_namespaces(resources, how.only_namespace)
    if problems:
        raise Problems(problems)
    objects, problems = objects_of(resources)
    problems += without_function(resources, await _known_functions(cluster, kinds, resources))
    if problems:
        raise Problems(problems)
    if not objects:
        raise Refused(f"{', '.join(map(str, paths))}: no resources; `kubeirq new function NAME` writes a first one")
    return objects


async def _known_functions(cluster: Cluster, kinds: Sequence[Kind], resources: Resources) -> set[tuple[str, str]]:
    functions = [kind for kind in kinds if kind.name == FUNCTION]
    known = set()
    for namespace in sorted({trigger.namespace for trigger in resources.triggers}):
        found, _ = await listed(cluster, functions, namespace)
        known |= {(namespace, one["metadata"]["name"]) for one in found}
    return known


async def _apply(cluster: Cluster, kinds: Sequence[Kind], wanted: Object, how: How) -> str:
    """What became of it, in a word. Raises Refused."""
    path = _path_of(kinds, wanted)
    query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict"), ("force", str(how.force).lower())]
    try:
        before: Object | None = await cluster.get(path)
    except NotThere:
        before = None
    except NoRight:
        before = {}  # who may write a Secret need not be allowed to read it
    found = await cluster.patch(
        path, wanted, "application/apply-patch+yaml", [*query, *([("dryRun", "All")] if how.dry_run else [])]
    )
    word = "created" if before is None else "applied" if not before else _compared(before, found)
    return f"would be {word}" if how.dry_run else word


def _compared(before: Object, after: Object) -> str:
    def content(found: Object) -> Object:
        metadata = {name: found["metadata"].get(name) for name in ("labels", "annotations")}
        return {**{name: part for name, part in found.items() if name != "status"}, "metadata": metadata}

    return "unchanged" if content(before) == content(after) else "changed"


async def _until_ready(
    cluster: Cluster, kinds: Sequence[Kind], objects: Sequence[Object], timeout_seconds: float, write: Write
) -> Mapping[Name, str]:
    """Returns once nothing is to be waited for, or the time is up: what is not Ready, and how it is instead."""
    started = time.monotonic()
    ours = [kind for kind in kinds if any(_is_of(kind, one) for one in objects)]
    names = [_name_of(one) for one in objects if any(_is_of(kind, one) for kind in ours)]
    waiting, unready = dict.fromkeys(names, ""), dict[Name, str]()
    while True:
        now = await _states(cluster, ours, sorted({namespace for _, namespace, _ in names}))
        for name in list(waiting):
            is_ready, reason, state = now.get(name, (False, "", "it was deleted meanwhile"))
            if is_ready or reason in _AS_WANTED:
                del waiting[name]
            elif reason in _FOR_GOOD:
                unready[name] = state
                del waiting[name]
                continue
            elif waiting[name] == state or (state == _UNSEEN and time.monotonic() - started < _UNSEEN_SECONDS):
                continue
            else:
                waiting[name] = state
            write(f"{name[0]}/{name[2]}: {state} ({time.monotonic() - started:.0f} s)")
        if not waiting or time.monotonic() - started > timeout_seconds:
            late = {name: f"{state or _UNSEEN} (after {timeout_seconds:g} s)" for name, state in waiting.items()}
            return {**unready, **late}
        await asyncio.sleep(_LOOK_SECONDS)


async def _states(
    cluster: Cluster, kinds: Sequence[Kind], namespaces: Sequence[str]
) -> Mapping[Name, tuple[bool, str, str]]:
    """Of each resource: whether it is Ready, the reason, and both in words."""
    found: dict[Name, tuple[bool, str, str]] = {}
    for namespace in namespaces:
        for one in (await listed(cluster, kinds, namespace))[0]:
            condition = ready_condition(one)
            if condition is None:
                found[_name_of(one)] = (False, "", _UNSEEN)
            else:
                reason = condition.get("reason", "")
                state = f"{reason}: {condition.get('message', '')}".removesuffix(": ")
                found[_name_of(one)] = (condition["status"] == "True", reason, state)
    return found


async def _last_words(cluster: Cluster, name: Name) -> list[str]:
    """The end of what the function's newest ill pod printed; nothing where there is none, or nobody may read it."""
    kind, namespace, function = name
    if kind != FUNCTION:
        return []
    try:
        pods = await cluster.list("v1", "Pod", namespace, {FUNCTION_LABEL: function})
        ill = [pod for pod in pods if not _is_ready(pod)]
        if not ill:
            return []
        log = log_of(max(ill, key=lambda pod: str(pod["metadata"]["creationTimestamp"])))
        lines = await past_lines(cluster, log, _LAST_LINES)
    except (Refused, NotRunning):
        return []
    return [f"{log.pod}, container {log.container}, printed:", *(f"  {line}" for line in lines)] if lines else []


def _path_of(kinds: Sequence[Kind], wanted: Object) -> str:
    namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
    for kind in kinds:
        if _is_of(kind, wanted):
            return kind.path(namespace, name)
    if wanted["apiVersion"] != "v1":
        raise Refused(
            f"no kind {wanted['kind']} of {wanted['apiVersion']} is known there: `kubeirq crds` prints the definitions "
            "of all that is installed here"
        )
    return path_of("v1", wanted["kind"], namespace, name)


def _is_of(kind: Kind, found: Object) -> bool:
    return (kind.name, kind.api_version) == (found["kind"], found["apiVersion"])


def _words(message: str) -> str:
    """A conflict with its way out."""
    if "Apply failed with" not in message:
        return message
    return f"{' '.join(message.partition('Please review')[0].split())}; --force takes these fields over"


def _name_of(found: Object) -> Name:
    return found["kind"], found["metadata"]["namespace"], found["metadata"]["name"]


def _shown(found: Object) -> str:
    return f"{found['kind']}/{found['metadata']['name']}"


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
