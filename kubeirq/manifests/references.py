"""Checks what resources refer to: functions, secrets, files and filters. Of the files, it reads dependencies only."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import BaseModel

from controllers.functions.body_limit import body_limit_of, body_limit_problem
from kubeirq.manifests.field_lines import FieldLines
from kubeirq.manifests.resources import EXAMPLE, Resource
from kubeirq.source_files import MissingFiles, paths_of, requirements_of
from trigger_sources.problems import Place, Problem, dotted, nearest
from trigger_sources.source import TriggerSource
from trigger_sources.spec import secret_refs

if TYPE_CHECKING:
    from controllers.functions.resource import FunctionSpec
    from kubeirq.manifests.code_problems import CodeProblem

_DATA_KINDS = ("Secret", "ConfigMap")

Found = tuple[Place, str]  # the place below `spec`, and the problem
Name = tuple[str, str]  # namespace, name


def reference_problems(
    resources: Sequence[Resource],
    lines: Mapping[int, FieldLines],
    invalid_functions: Collection[Name],
    complete: bool,
) -> Iterator[Problem]:
    """Every problem that shows only when all resources are known.

    `lines` holds each resource's lines by its id(). `invalid_functions` have problems of their own, and count as
    present. If not `complete`, functions and secrets may be somewhere else.
    """
    functions = {(found.namespace, found.name): found for found in resources if found.kind == "Function"}
    secrets = {(found.namespace, found.name): found.spec for found in resources if found.kind == "Secret"}
    for resource in resources:
        found: list[Found] = []
        if resource.kind == "Function":
            found += _file_problems(resource, resource.spec)
        elif isinstance(resource.spec, TriggerSource):
            found += _trigger_problems(resource, resource.spec, functions, invalid_functions, complete)
        if isinstance(resource.spec, BaseModel):
            found += _secret_problems(resource, resource.spec, secrets, complete)
        for place, message in found:
            whole = ("spec", *place)
            own = lines.get(id(resource))
            line = own.at(whole) if own is not None else resource.line
            yield Problem(resource.file, line, dotted(whole), message)


def starting_problems(
    resources: Sequence[Resource], lines: Mapping[int, FieldLines], complete: bool
) -> Iterator[Problem]:
    """Every problem for which a function would not start, or a trigger not get its route."""
    data = {(found.kind, found.namespace, found.name): found.spec for found in resources if found.kind in _DATA_KINDS}
    claimed: dict[tuple[str, str], Resource] = {}
    for resource in resources:
        found: list[CodeProblem] = []
        if resource.kind == "Function":
            from kubeirq.manifests.code_problems import code_problems  # a fabric without functions does not need it

            found += code_problems(resource, runs_here=complete)
        if resource.kind == "Function" and complete:
            found += ((place, message, None) for place, message in _variable_problems(resource, resource.spec, data))
        elif isinstance(resource.spec, TriggerSource) and not resource.spec.suspend:
            found += ((place, message, None) for place, message in _claim_problems(resource, resource.spec, claimed))
        for place, message, elsewhere in found:
            whole = ("spec", *place)
            own = lines.get(id(resource))
            file, line = elsewhere or (resource.file, own.at(whole) if own is not None else resource.line)
            yield Problem(file, line, "" if elsewhere else dotted(whole), message)


def _variable_problems(
    resource: Resource, spec: "FunctionSpec", data: Mapping[tuple[str, str, str], Mapping[str, str]]
) -> Iterator[Found]:
    """The Secrets and ConfigMaps of its variables that are not in the files, or lack the key."""
    wanted: list[tuple[Place, str, str, str | None]] = []
    for index, variable in enumerate(spec.env):
        source = variable.value_from
        if source is None:
            continue
        for kind, field, reference in (
            ("Secret", "secretKeyRef", source.secret_key_ref),
            ("ConfigMap", "configMapKeyRef", source.config_map_key_ref),
        ):
            if reference is not None:
                wanted.append((("env", index, "valueFrom", field), kind, reference.name, reference.key))
    for index, part in enumerate(spec.env_from):
        for kind, field in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
            named = part.get(field)
            if isinstance(named, dict) and not named.get("optional"):
                wanted.append((("envFrom", index, field), kind, str(named.get("name")), None))
    for place, kind, name, key in wanted:
        known = data.get((kind, resource.namespace, name))
        if known is None:
            option = ", or give the folder that `serve` or `dev` gets: --secrets DIR" if kind == "Secret" else ""
            yield place, f"no {kind} {name!r} in these files; add a {kind} document{option}"
        elif key is not None and key not in known:
            yield place, f"{kind} {name!r} has no key {key!r}{nearest(key, known)}"


def _claim_problems(
    resource: Resource, spec: TriggerSource, claimed: dict[tuple[str, str], Resource]
) -> Iterator[Found]:
    """A claim, such as a route, that another trigger in the files has too."""
    for claim in sorted(spec.claims(resource.name)):
        owner = claimed.setdefault((resource.kind, claim), resource)
        if owner is not resource:
            place: Place = ("path",) if "path" in type(spec).model_fields else ()
            where = f"{owner.kind} {owner.name!r}, {owner.file}:{owner.line}"
            yield place, f"{claim} is already served by {where}; change one of them"


def _file_problems(resource: Resource, spec: "FunctionSpec") -> Iterator[Found]:
    base, missing = resource.file.parent, False
    for name, path in (("path", spec.source.path), *(("include", found) for found in spec.source.include)):
        if path is not None and not (base / path).exists():
            missing = True
            yield ("source", name), f"no file {str(base / path)!r}"
    path = spec.dependencies_path
    if path is not None and not (base / path).is_file():
        missing = True
        yield ("dependenciesPath",), f"no file {str(base / path)!r}"
    if missing:
        return
    try:
        paths_of(spec, base, resource.project)
        requirements_of(spec, base, resource.project)
    except MissingFiles as error:
        field, _, message = str(error).partition(": ")
        yield tuple(field.split(".")[1:]), message


def _trigger_problems(
    resource: Resource,
    spec: TriggerSource,
    functions: Mapping[Name, Resource],
    invalid_functions: Collection[Name],
    complete: bool,
) -> Iterator[Found]:
    target = spec.target
    assert target is not None
    neighbours = {name: found for (namespace, name), found in functions.items() if namespace == resource.namespace}
    known = set(neighbours) | {name for namespace, name in invalid_functions if namespace == resource.namespace}
    if complete and target.function is not None and target.function not in known:
        yield ("function",), f"no Function {target.function!r} in these files{nearest(target.function, known)}"
    if target.selector is not None:
        matching = [found for found in neighbours.values() if target.selector.matches(dict(found.labels))]
        if complete and not matching:
            yield ("functionSelector",), "no Function in these files has these labels"
        elif len(matching) > 1 and not spec.fan_out:
            names = ", ".join(found.name for found in matching)
            yield ("functionSelector",), f"a {resource.kind} calls one function; these match: {names}"
    name = spec.reply.function if spec.reply is not None else None
    if complete and name is not None and name not in known:
        yield ("reply", "function"), f"no Function {name!r} in these files{nearest(name, known)}"
    if resource.kind == "HTTPTrigger" and target.function in neighbours:
        from trigger_sources.http import HTTPTrigger

        if isinstance(spec, HTTPTrigger):
            yield from _body_limit_problems(spec.body_limit_bytes, neighbours[target.function])
    if spec.filter is not None:
        from trigger_sources.dispatch.filters import compile_filter  # only where there is a filter

        try:
            compile_filter(spec.filter)
        except ValueError as error:
            yield ("filter",), str(error)
            return
        yield from _type_problems(resource, spec)


def _type_problems(resource: Resource, spec: TriggerSource) -> Iterator[Found]:
    """Comparisons in the filter that never hold for the event that the file itself has: its payload, or its example."""
    from trigger_sources.dispatch.filters import type_problem

    assert spec.filter is not None
    known = [("its payload", payload)] if (payload := getattr(spec, "payload", None)) is not None else []
    with suppress(ValueError):
        known += [("its example", json.loads(resource.annotations[EXAMPLE]))] if EXAMPLE in resource.annotations else []
    for what, data in known:
        if note := type_problem(spec.filter, data):
            yield ("filter",), f"with {what}, {note}"


def _body_limit_problems(gateway_limit: int, function: Resource) -> Iterator[Found]:
    """A gateway that lets in larger bodies than the function takes, as far as the files tell."""
    if function.kind == "Function":
        limit = body_limit_of(function.spec.model_dump(by_alias=True))
        if problem := body_limit_problem(gateway_limit, function.name, limit):
            yield ("bodyLimitBytes",), problem


def _secret_problems(
    resource: Resource, spec: BaseModel, secrets: Mapping[Name, Mapping[str, str]], complete: bool
) -> Iterator[Found]:
    for place, reference in secret_refs(spec):
        data = secrets.get((resource.namespace, reference.name))
        if data is None:
            if complete:
                way_out = "add a Secret document, or give the folder that `serve` or `dev` gets: --secrets DIR"
                yield place, f"no Secret {reference.name!r} in these files; {way_out}"
        elif reference.key not in data:
            yield place, f"Secret {reference.name!r} has no key {reference.key!r}{nearest(reference.key, data)}"
