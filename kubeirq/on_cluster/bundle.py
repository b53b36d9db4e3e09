"""What resources of files are on a cluster, which cannot see the files beside them. Pure but for reading those."""

import base64
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import Any

from controllers.functions.config_map import TooLarge, config_map_of
from controllers.functions.resource import FunctionSpec
from kubeirq.manifests import Resource, Resources
from kubeirq.source_files import NoFiles, files_of, module_file_of, requirements_of
from trigger_sources.problems import Problem, nearest

Object = dict[str, Any]


def objects_of(resources: Resources, *, with_namespace: bool = True) -> tuple[list[Object], list[Problem]]:
    """The objects to apply, each after what it refers to, and what keeps resources from being any.

    Without `with_namespace` only those have one whose file says so.
    """
    objects: list[Object] = []
    problems: list[Problem] = []
    for resource in (*resources.of("Secret"), *resources.of("ConfigMap"), *resources.functions, *resources.triggers):
        try:
            objects.append(_object_of(resource, with_namespace))
        except (NoFiles, NotText, TooLarge, OSError) as error:
            field, _, message = str(error).partition(": ")
            problems.append(Problem(resource.file, resource.line, field, message))
    return objects, problems


def without_function(resources: Resources, known: Collection[tuple[str, str]]) -> Iterator[Problem]:
    """The triggers that call a Function that is neither in the files nor, by namespace and name, among the `known`."""
    there = {*known, *((found.namespace, found.name) for found in resources.functions)}
    for trigger in resources.triggers:
        spec = trigger.spec
        names = {"function": spec.target.function, "reply.function": spec.reply.function if spec.reply else None}
        for field, name in names.items():
            if name is not None and (trigger.namespace, name) not in there:
                near = nearest(name, [name for namespace, name in there if namespace == trigger.namespace])
                message = f"no Function {name!r} in these files, nor in namespace {trigger.namespace}{near}"
                yield Problem(trigger.file, trigger.line, f"spec.{field}", message)


def of_other_namespaces(resources: Resources, namespace: str) -> Iterator[Problem]:
    """Those whose file says another one: the file, or the command, is wrong."""
    for found in resources.found:
        if found.namespace != namespace:
            message = f"{found.namespace!r} is not the namespace that was asked for, {namespace!r}"
            yield Problem(found.file, found.line, "metadata.namespace", message)


class NotText(Exception):
    """A file that no resource can hold: field, problem, way out."""


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
    if resource.kind == "ConfigMap":
        return {**head, "data": dict(resource.spec)}
    if resource.kind == "Secret":
        data = {key: base64.b64encode(text.encode()).decode() for key, text in resource.spec.items()}
        return {**head, "type": resource.document.get("type", "Opaque"), "data": data}
    spec = _plain(resource.document["spec"])
    return {**head, "spec": _bundled(resource, spec) if resource.kind == "Function" else spec}


def _bundled(resource: Resource, written: Object) -> Object:
    """The spec with the text of files in place of their paths."""
    spec: FunctionSpec = resource.spec
    base = resource.file.parent
    found = {name: value for name, value in written.items() if name != "dependenciesPath"}
    if spec.dependencies_path is not None:
        found["dependencies"] = requirements_of(spec, base)
    texts = {path: _text(path, data) for path, data in files_of(spec, base).items()}
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
            f"spec.source: {path!r} is no text, and a resource holds nothing else; "
            "leave it out, or put the code at a url (with its sha256) or into an image"
        ) from None


def _plain(value: Any) -> Any:
    """As JSON has it: YAML knows dates."""
    if isinstance(value, Mapping):
        return {str(key): _plain(found) for key, found in value.items()}
    if isinstance(value, list):
        return [_plain(found) for found in value]
    return value.isoformat() if isinstance(value, date) else value
