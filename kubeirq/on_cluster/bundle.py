"""Turns resources of files into the objects to apply. The cluster cannot see the files beside a manifest, so a
Function's object contains their text. Pure but for reading those files.
"""

import base64
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import Any

from controllers.functions.config_map import TooLarge, config_map_of
from controllers.functions.resource import FunctionSpec
from kubeirq.manifests.reader import is_unicode
from kubeirq.manifests.resources import Resource, Resources
from kubeirq.source_files import MissingFiles, files_of, module_file_of, requirements_of
from trigger_sources.problems import Problem, nearest

Object = dict[str, Any]


class NotText(Exception):
    """A resource cannot hold this file because it is not text. The text has field, problem and way out."""


def objects_of(resources: Resources, *, with_namespace: bool = True) -> tuple[list[Object], list[Problem]]:
    """The objects to apply, each after those it refers to, and the problems of resources that cannot be applied.

    Without `with_namespace`, an object has a namespace only if its file gives one.
    """
    objects: list[Object] = []
    problems: list[Problem] = []
    for resource in (*resources.of("Secret"), *resources.of("ConfigMap"), *resources.functions, *resources.triggers):
        try:
            objects.append(_object_of(resource, with_namespace))
        except (MissingFiles, NotText, TooLarge, OSError) as error:
            field, _, message = str(error).partition(": ")
            problems.append(Problem(resource.file, resource.line, field, message))
    return objects, problems


def missing_functions(resources: Resources, known: Collection[tuple[str, str]]) -> Iterator[Problem]:
    """A problem for each trigger whose Function is neither in the files nor, by namespace and name, in `known`."""
    there = {*known, *((found.namespace, found.name) for found in resources.functions)}
    for trigger in resources.triggers:
        spec = trigger.spec
        names = {"function": spec.target.function, "reply.function": spec.reply.function if spec.reply else None}
        for field, name in names.items():
            if name is not None and (trigger.namespace, name) not in there:
                near = nearest(name, [name for namespace, name in there if namespace == trigger.namespace])
                message = f"no Function {name!r} in these files, nor in namespace {trigger.namespace}{near}"
                yield Problem(trigger.file, trigger.line, f"spec.{field}", message)


def wrong_namespaces(resources: Resources, namespace: str) -> Iterator[Problem]:
    """A problem for each resource whose file gives another namespace than the command."""
    for found in resources.found:
        if found.namespace != namespace:
            message = f"the file says {found.namespace!r}, the command says {namespace!r}; change one of them"
            yield Problem(found.file, found.line, "metadata.namespace", message)


def _object_of(resource: Resource, with_namespace: bool) -> Object:
    written = resource.document.get("metadata", {})
    metadata: Object = {"name": resource.name}
    if with_namespace or "namespace" in written:
        metadata["namespace"] = resource.namespace
    if resource.labels:
        metadata["labels"] = dict(resource.labels)
    if resource.annotations:
        metadata["annotations"] = dict(resource.annotations)
    head = {"apiVersion": resource.document.get("apiVersion", "v1"), "kind": resource.kind, "metadata": metadata}
    if "immutable" in resource.document:
        head["immutable"] = resource.document["immutable"]
    if resource.kind == "ConfigMap":
        texts = {key: text for key, text in resource.spec.items() if is_unicode(text)}
        binary = {key: _base64(text) for key, text in resource.spec.items() if key not in texts}
        return {**head, "data": texts, **({"binaryData": binary} if binary else {})}
    if resource.kind == "Secret":
        data = {key: _base64(text) for key, text in resource.spec.items()}
        return {**head, "type": resource.document.get("type", "Opaque"), "data": data}
    spec = _as_json(resource.document["spec"])
    return {**head, "spec": _bundled(resource, spec) if resource.kind == "Function" else spec}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode(errors="surrogateescape")).decode()


def _bundled(resource: Resource, written: Object) -> Object:
    """The spec with the text of files in place of their paths."""
    spec: FunctionSpec = resource.spec
    base, project = resource.file.parent, resource.project
    found = {name: value for name, value in written.items() if name != "dependenciesPath"}
    if spec.dependencies_path is not None:
        found["dependencies"] = requirements_of(spec, base, project)
    texts = {path: _text(path, data) for path, data in files_of(spec, base, project).items()}
    if texts:
        config_map_of({"name": resource.name}, texts, dependencies={"requirements": found.get("dependencies") or ""})
    if spec.source.path is not None:
        module_file = module_file_of(spec)
        found["source"] = {"inline": texts[module_file]} if texts.keys() == {module_file} else {"files": texts}
    return found


def _text(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotText(
            f"spec.source: {path!r} is not text, and a resource can hold only text; "
            "leave it out, or put the code at a url (with its sha256) or into an image"
        ) from None


def _as_json(value: Any) -> Any:
    """The value with JSON types only: YAML also has dates."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(found) for key, found in value.items()}
    if isinstance(value, list):
        return [_as_json(found) for found in value]
    return value.isoformat() if isinstance(value, date) else value
