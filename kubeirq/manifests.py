"""Resources from YAML files: read with the lines of their fields, checked whole, every problem of all files at once."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from controllers.functions.resource import FunctionSpec
from trigger_sources.dispatch.filters import compile_filter
from trigger_sources.problems import Place, Problem, dotted, nearest, spec_problems
from trigger_sources.registry import kinds, source_of
from trigger_sources.source import TriggerSource
from trigger_sources.spec import problem_of_name, secret_refs

VERSION = "v1"
SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "venv"})
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Resource:
    """One resource as its file has it. `spec` is the kind's model; a Secret's or ConfigMap's data by key."""

    kind: str
    namespace: str
    name: str
    spec: Any
    labels: Mapping[str, str]
    file: Path
    line: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, compare=False)  # as it is written; none of a folder's

    @property
    def uid(self) -> str:
        return f"{self.namespace}/{self.kind}/{self.name}"


@dataclass(frozen=True)
class Resources:
    """Everything that was found."""

    found: Sequence[Resource] = ()

    @property
    def functions(self) -> Sequence[Resource]:
        return self.of("Function")

    @property
    def triggers(self) -> Sequence[Resource]:
        return [found for found in self.found if found.kind not in ("Function", "Secret", "ConfigMap")]

    @cached_property
    def secrets(self) -> Mapping[tuple[str, str], Mapping[str, str]]:
        """Their data by namespace and name."""
        return {(found.namespace, found.name): found.spec for found in self.of("Secret")}

    @cached_property
    def config_maps(self) -> Mapping[tuple[str, str], Mapping[str, str]]:
        """Their data by namespace and name."""
        return {(found.namespace, found.name): found.spec for found in self.of("ConfigMap")}

    def of(self, kind: str) -> Sequence[Resource]:
        return [found for found in self.found if found.kind == kind]


def load(
    paths: Sequence[Path], secrets: Path | None = None, *, namespace: str = "default", whole: bool = True
) -> tuple[Resources, list[Problem]]:
    """The resources of these files and folders, and all that is wrong with them, by file and line.

    `secrets` is a folder with a folder for each Secret, with a file for each key. `namespace` is that of resources that
    name none. `whole`: what the resources refer to has to be in the files too; otherwise it may be in a cluster.
    """
    reader = _Reader(namespace, whole)
    for path in paths:
        if not path.exists():
            reader.problems.append(Problem(path, 1, "", "no such file or folder"))
        for file in files_in(path):
            reader.read(file)
    if secrets is not None:
        reader.read_secrets(secrets)
    reader.check_across()
    return Resources(reader.found), sorted(set(reader.problems))


def files_in(path: Path) -> Iterator[Path]:
    """The manifests of a folder, sorted, without what is hidden or not ours; a file is itself."""
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        return
    for found in sorted(path.iterdir()):
        if found.name.startswith(".") or found.name in SKIPPED_FOLDERS:
            continue
        if found.is_dir():
            yield from files_in(found)
        elif found.suffix in (".yaml", ".yml"):
            yield found


class _Reader:
    """What was found so far."""

    def __init__(self, namespace: str, whole: bool) -> None:
        self.namespace = namespace
        self.whole = whole
        self.found: list[Resource] = []
        self.problems: list[Problem] = []
        self.lines: dict[int, _Lines] = {}  # of each resource, by its id()
        self.broken: set[tuple[str, str]] = set()  # functions with problems of their own: they are there all the same

    def read(self, file: Path) -> None:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(Problem(file, 1, "", f"cannot be read: {error}"))
            return
        try:
            documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            self.problems.append(Problem(file, mark.line + 1 if mark else 1, "", f"no YAML: {problem}"))
            return
        for node in documents:
            if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
                continue
            lines = _Lines(node)
            for line, name in lines.doubles:
                self.problems.append(Problem(file, line, name, "given twice"))
            try:
                value = yaml.constructor.SafeConstructor().construct_document(node)
            except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
                mark = getattr(error, "problem_mark", None)
                line = mark.line + 1 if mark else lines.at(())
                self.problems.append(Problem(file, line, "", f"no value: {getattr(error, 'problem', None) or error}"))
                continue
            self._document(file, value, lines)

    def read_secrets(self, folder: Path) -> None:
        if not folder.is_dir():
            self.problems.append(Problem(folder, 1, "", "no such folder"))
            return
        for secret in sorted(found for found in folder.iterdir() if found.is_dir()):
            data = {file.name: file.read_text().rstrip("\n") for file in secret.iterdir() if file.is_file()}
            self.found.append(Resource("Secret", self.namespace, secret.name, data, {}, secret, 1))

    def _document(self, file: Path, value: Any, lines: "_Lines") -> None:
        def problem(message: str, *place: str | int) -> None:
            self.problems.append(Problem(file, lines.at(place), dotted(place), message))

        if not isinstance(value, dict):
            problem("a resource is a mapping with apiVersion, kind, metadata and spec")
            return
        kind, version = value.get("kind"), value.get("apiVersion")
        known = kinds() | {"Function", "Secret", "ConfigMap"}
        if not isinstance(kind, str) or kind not in known:
            if isinstance(version, str) and version.startswith("kubeless.io/"):
                problem("Kubeless' resources are not read as yet; write a kubeirq.dev/v1 one", "apiVersion")
                return
            text = "is needed" if kind is None else f"no kind {kind!r}"
            problem(text + nearest(str(kind), known), "kind")
            return
        expected = _version_of(kind)
        if version is None:
            problem(f"is needed: {expected}", "apiVersion")
        elif version != expected:
            problem(f"{version!r} is not the version of a {kind}; {expected} is", "apiVersion")
        for name in value:
            if name not in ("apiVersion", "kind", "metadata", "spec", "status", "data", "stringData", "type"):
                problem(f"unknown field{nearest(str(name), ('apiVersion', 'kind', 'metadata', 'spec'))}", name)
        metadata = value.get("metadata")
        if not isinstance(metadata, dict):
            problem("is needed, with a name", "metadata")
            return
        name, namespace = metadata.get("name"), metadata.get("namespace", self.namespace)
        for field_, found in (("name", name), ("namespace", namespace)):
            if found is None:
                problem("is needed", "metadata", field_)
                return
            if not isinstance(found, str) or not _NAME.fullmatch(found):
                problem(f"{found!r} is no name: lower-case letters, digits and -, at most 63", "metadata", field_)
                return
        assert isinstance(name, str)
        if kind == "Function" and (refusal := problem_of_name(name)) is not None:
            problem(refusal, "metadata", "name")
            return
        labels = metadata.get("labels") or {}
        if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
            problem("labels are texts by name", "metadata", "labels")
            labels = {}
        spec = self._spec(kind, name, value, problem)
        if spec is None:
            self.broken |= {(str(namespace), name)} if kind == "Function" else set()
            return
        annotations = {str(key): str(text) for key, text in (metadata.get("annotations") or {}).items()}
        resource = Resource(kind, str(namespace), name, spec, labels, file, lines.at(()), annotations, value)
        other = next((found for found in self.found if found.uid == resource.uid), None)
        if other is not None:
            problem(f"{kind} {name!r} is in {other.file}:{other.line} already", "metadata", "name")
            return
        self.found.append(resource)
        self.lines[id(resource)] = lines

    def _spec(self, kind: str, name: str, value: Mapping[str, Any], problem: Any) -> Any:
        if kind in ("Secret", "ConfigMap"):
            return self._data(kind, value, problem)
        model: type[BaseModel] = FunctionSpec if kind == "Function" else source_of(kind)
        spec = value.get("spec")
        if not isinstance(spec, dict):
            problem("is needed", "spec")
            return None
        try:
            found = model.model_validate(spec, by_alias=True, by_name=False)
        except ValidationError as error:
            for place, message in spec_problems(error, model):
                problem(message, "spec", *place)
            return None
        except RecursionError:
            problem("is nested too deeply", "spec")
            return None
        return found.named(name) if isinstance(found, FunctionSpec) else found

    def _data(self, kind: str, value: Mapping[str, Any], problem: Any) -> dict[str, str] | None:
        import base64

        data: dict[str, str] = {}
        for part in ("data", "stringData"):
            for key, text in (value.get(part) or {}).items():
                if not isinstance(text, str):
                    problem(f"{text!r} is not a text; quote it", part, key)
                    return None
                if kind == "Secret" and part == "data":
                    try:
                        text = base64.b64decode(text, validate=True).decode()
                    except ValueError:
                        problem("is not base64; plain text goes under stringData", part, key)
                        return None
                data[str(key)] = text
        return data

    def check_across(self) -> None:
        """What only shows when all resources are known."""
        functions = {(found.namespace, found.name): found for found in self.found if found.kind == "Function"}
        secrets = {(found.namespace, found.name): found.spec for found in self.found if found.kind == "Secret"}
        for resource in self.found:
            if isinstance(resource.spec, FunctionSpec):
                self._check_function(resource)
            elif isinstance(resource.spec, TriggerSource):
                self._check_trigger(resource, functions)
            if isinstance(resource.spec, BaseModel):
                for place, reference in secret_refs(resource.spec):
                    data = secrets.get((resource.namespace, reference.name))
                    if data is None:
                        if self.whole:
                            way = "add a Secret document, or --secrets DIR"
                            self._problem(resource, f"no Secret {reference.name!r} in these files; {way}", *place)
                    elif reference.key not in data:
                        text = f"Secret {reference.name!r} has no key {reference.key!r}{nearest(reference.key, data)}"
                        self._problem(resource, text, *place)

    def _check_function(self, resource: Resource) -> None:
        source = resource.spec.source
        for name, path in (("path", source.path), *(("include", found) for found in source.include)):
            if path is not None and not (resource.file.parent / path).exists():
                self._problem(resource, f"no file {str(resource.file.parent / path)!r}", "source", name)
        path = resource.spec.dependencies_path
        if path is not None and not (resource.file.parent / path).is_file():
            self._problem(resource, f"no file {str(resource.file.parent / path)!r}", "dependenciesPath")

    def _check_trigger(self, resource: Resource, functions: Mapping[tuple[str, str], Resource]) -> None:
        spec: TriggerSource = resource.spec
        here = {name: found for (namespace, name), found in functions.items() if namespace == resource.namespace}
        target = spec.target
        assert target is not None
        known = set(here) | {name for namespace, name in self.broken if namespace == resource.namespace}
        if self.whole and target.function is not None and target.function not in known:
            self._problem(
                resource, f"no Function {target.function!r} in these files{nearest(target.function, known)}", "function"
            )
        if target.selector is not None:
            matching = [found for found in here.values() if target.selector.matches(dict(found.labels))]
            if self.whole and not matching:
                self._problem(resource, "no Function in these files has these labels", "functionSelector")
            elif len(matching) > 1 and not spec.fan_out:
                names = ", ".join(found.name for found in matching)
                self._problem(
                    resource, f"a {resource.kind} calls one function; these match: {names}", "functionSelector"
                )
        name = spec.reply.function if spec.reply is not None else None
        if self.whole and name is not None and name not in known:
            self._problem(resource, f"no Function {name!r} in these files{nearest(name, known)}", "reply", "function")
        if spec.filter is not None:
            try:
                compile_filter(spec.filter)
            except ValueError as error:
                self._problem(resource, str(error), "filter")

    def _problem(self, resource: Resource, message: str, *place: str | int) -> None:
        lines = self.lines.get(id(resource))
        whole = ("spec", *place)
        line = lines.at(whole) if lines is not None else resource.line
        self.problems.append(Problem(resource.file, line, dotted(whole), message))


def _version_of(kind: str) -> str:
    """The apiVersion of a kind that is read."""
    if kind in ("Secret", "ConfigMap"):
        return "v1"
    return f"{'kubeirq.dev' if kind == 'Function' else source_of(kind).api_group}/{VERSION}"


class _Lines:
    """The line of every field of a document, from 1, by its place."""

    def __init__(self, node: yaml.Node) -> None:
        self.doubles: list[tuple[int, str]] = []
        self._lines: dict[Place, int] = {}
        self._walk(node, (), set())

    def at(self, place: Sequence[str | int]) -> int:
        """The field's own line, or that of the nearest thing around it."""
        whole = tuple(place)
        while whole and whole not in self._lines:
            whole = whole[:-1]
        return self._lines.get(whole, 1)

    def _walk(self, node: yaml.Node, place: Place, above: set[int]) -> None:
        self._lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in above:
            return  # an alias of what it is in
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                name = str(getattr(key, "value", "?"))
                if name in seen and name != "<<":
                    self.doubles.append((key.start_mark.line + 1, dotted((*place, name))))
                seen.add(name)
                self._lines[(*place, name)] = key.start_mark.line + 1
                self._walk(value, (*place, name), above | {id(node)})
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._walk(value, (*place, index), above | {id(node)})
