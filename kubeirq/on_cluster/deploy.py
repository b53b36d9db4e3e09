"""Applies the resources of files to a cluster, and waits until they are Ready."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from controllers.cluster.api import path_of
from kubeirq.fabric_client import Refused
from kubeirq.manifests.loading import load
from kubeirq.manifests.resources import InvalidManifests, Resources
from kubeirq.on_cluster.bundle import missing_functions, objects_of, wrong_namespaces
from kubeirq.on_cluster.connection import AccessDenied, Cluster, NotFound, Object
from kubeirq.on_cluster.readiness import Write, failing_pod_lines, is_of_kind, name_of, wait_until_ready
from kubeirq.on_cluster.resources import FUNCTION, Kind, installed_kinds, list_resources
from kubeirq.output.formats import counted

FIELD_MANAGER = "kubeirq-deploy"


@dataclass(frozen=True)
class DeployOptions:
    """The options of `kubeirq deploy`."""

    dry_run: bool = False
    force: bool = False  # overwrite fields that others have set
    timeout_seconds: float | None = 180  # None: do not wait for Ready
    only_namespace: str | None = None  # every resource has to be in this namespace


async def deploy(
    cluster: Cluster,
    paths: Sequence[Path],
    secrets: Path | None,
    options: DeployOptions,
    write: Write,
    write_error: Write,
) -> bool:
    """Whether everything succeeded; `write_error` gets each failure.

    Raises InvalidManifests before it changes anything, and Refused.
    """
    began = time.monotonic()
    kinds = await installed_kinds(cluster)
    objects = await _objects(cluster, kinds, paths, secrets, options, write_error)
    namespaces = sorted({one["metadata"]["namespace"] for one in objects})
    write_error(f"(cluster of context {cluster.context}, namespace {', '.join(namespaces)})")
    refused = 0
    for wanted in objects:
        try:
            write(f"{_short_name(wanted)}: {await _apply(cluster, kinds, wanted, options)}")
        except Refused as error:
            refused += 1
            write_error(f"{_short_name(wanted)}: {_refusal_text(str(error))}")
    if refused:
        write_error(f"the cluster refused {refused} of {counted(len(objects), 'object')}")
        return False
    if options.dry_run or options.timeout_seconds is None:
        return True
    unready = await wait_until_ready(cluster, kinds, objects, options.timeout_seconds, write, began)
    if not unready:
        write(f"{counted(len(objects), 'object')} applied and Ready")
        return True
    for name, state in unready.items():
        write_error(f"{name[0]}/{name[2]} is not Ready: {state}")
        for line in await failing_pod_lines(cluster, name):
            write_error(f"    {line}")
    return False


async def _objects(
    cluster: Cluster,
    kinds: Sequence[Kind],
    paths: Sequence[Path],
    secrets: Path | None,
    options: DeployOptions,
    write_error: Write,
) -> list[Object]:
    resources, problems = load(paths, secrets, namespace=cluster.namespace, complete=False, thorough=True)
    if options.only_namespace is not None:
        problems += wrong_namespaces(resources, options.only_namespace)
    if problems:
        raise InvalidManifests.of(problems)
    if resources.foreign:
        write_error(f"(not kubeirq's, left out: {', '.join(resources.foreign)})")
    objects, problems = objects_of(resources)
    problems += missing_functions(resources, await _known_functions(cluster, kinds, resources))
    if problems:
        raise InvalidManifests.of(problems)
    if not objects:
        raise Refused(
            f"{', '.join(map(str, paths))}: no resources found; `kubeirq new function NAME` writes a first one"
        )
    return objects


async def _known_functions(cluster: Cluster, kinds: Sequence[Kind], resources: Resources) -> set[tuple[str, str]]:
    functions = [kind for kind in kinds if kind.name == FUNCTION]
    known = set()
    for namespace in sorted({trigger.namespace for trigger in resources.triggers}):
        found, _ = await list_resources(cluster, functions, namespace)
        known |= {(namespace, one["metadata"]["name"]) for one in found}
    return known


async def _apply(cluster: Cluster, kinds: Sequence[Kind], wanted: Object, options: DeployOptions) -> str:
    """Applies the object, and returns the result in a word or two. Raises Refused."""
    path = _path_of(kinds, wanted)
    query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict"), ("force", str(options.force).lower())]
    try:
        before: Object | None = await cluster.get(path)
    except NotFound:
        before = None
    except AccessDenied:
        before = {}  # the right to write a Secret does not include the right to read it
    found = await cluster.patch(
        path, wanted, "application/apply-patch+yaml", [*query, *([("dryRun", "All")] if options.dry_run else [])]
    )
    result = "created" if before is None else "applied" if not before else _difference(before, found)
    return f"would be {result}" if options.dry_run else result


def _difference(before: Object, after: Object) -> str:
    def content(found: Object) -> Object:
        metadata = {name: found["metadata"].get(name) for name in ("labels", "annotations")}
        return {**{name: part for name, part in found.items() if name != "status"}, "metadata": metadata}

    return "unchanged" if content(before) == content(after) else "changed"


def _path_of(kinds: Sequence[Kind], wanted: Object) -> str:
    _, namespace, name = name_of(wanted)
    for kind in kinds:
        if is_of_kind(kind, wanted):
            return kind.path(namespace, name)
    if wanted["apiVersion"] != "v1":
        raise Refused(
            f"the cluster has no kind {wanted['kind']} of {wanted['apiVersion']}; apply the output of `kubeirq crds`, "
            "which has the definitions of all kinds that are installed here"
        )
    return path_of("v1", wanted["kind"], namespace, name)


def _refusal_text(message: str) -> str:
    """The message; for a conflict, with the way out."""
    if "Apply failed with" not in message:
        return message
    return f"{' '.join(message.partition('Please review')[0].split())}; --force overwrites these fields"


def _short_name(found: Object) -> str:
    return f"{found['kind']}/{found['metadata']['name']}"
