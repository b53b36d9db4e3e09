"""Reads YAML documents into resources, and notes every problem with its file, line and field."""

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml
from pydantic import ValidationError

from kubeirq.manifests.field_lines import FieldLines
from kubeirq.manifests.resources import Resource
from kubeirq.manifests.yaml_documents import documents_of, value_of
from trigger_sources.problems import Place, Problem, dotted, nearest, spec_problems
from trigger_sources.registry import BrokenPlugin, kinds, source_of
from trigger_sources.spec import problem_of_name

VERSION = "v1"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_CORE_KINDS = ("Secret", "ConfigMap")
_TOP_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status", "data", "stringData", "type")
_UNQUOTED = (
    "expected alphabetic or numeric",
    "that cannot start any token",
    "mapping values are not allowed",
)
_DATA_FIELDS = {"Secret": ("data", "stringData"), "ConfigMap": ("data", "binaryData")}
_OF_KUBERNETES = frozenset(  # kinds of v1 that lie beside ours
    {
        "Binding", "Endpoints", "Event", "LimitRange", "Namespace", "Node", "PersistentVolume", "PersistentVolumeClaim",
        "Pod", "PodTemplate", "ReplicationController", "ResourceQuota", "Service", "ServiceAccount",
    }
)  # fmt: skip


class Report(Protocol):
    """Notes a problem at a place of the document."""

    def __call__(self, message: str, *place: str | int) -> None: ...


class Reader:
    """Collects the resources and problems of the files that it reads."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.found: list[Resource] = []
        self.problems: list[Problem] = []
        self.lines: dict[int, FieldLines] = {}  # of each resource, by its id()
        self.foreign: list[str] = []
        self.invalid_functions: set[tuple[str, str]] = set()  # namespace and name; other resources may refer to them

    def read(self, file: Path, project: Path, *, in_folder: bool = False) -> None:
        """Reads a manifest. The files that it names must be in the folder `project`.

        A file of a folder may have objects that are for other programs.
        """
        try:
            text = file.read_text()
            documents = documents_of(text)
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(Problem(file, 1, "", f"cannot be read: {error}"))
            return
        except yaml.YAMLError as error:
            self._not_yaml(file, error, "invalid YAML", text)
            return
        for node in documents:
            lines = FieldLines(node)
            for line, name in lines.duplicates:
                self.problems.append(Problem(file, line, name, "is set twice; remove one"))
            try:
                value = value_of(node)
            except yaml.YAMLError as error:
                self._not_yaml(file, error, "invalid value")
                continue
            for item, place in _items_of(value):
                self._document(file, item, lines.below(place), project, in_folder=in_folder)

    def _not_yaml(self, file: Path, error: yaml.YAMLError, prefix: str, text: str = "") -> None:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        if mark is not None and is_indented_wrongly(problem, text, mark.line):
            problem += "; the line is indented deeper than the field before it; begin both in the same column"
        elif "'\\t'" in problem:
            problem = "a tab; indent with spaces"
        elif any(words in problem for words in _UNQUOTED):
            problem += "; quote the value, as YAML gives one of its characters a meaning of its own"
        self.problems.append(Problem(file, mark.line + 1 if mark else 1, "", f"{prefix}: {problem}"))

    def read_secrets(self, folder: Path) -> None:
        if not folder.is_dir():
            self.problems.append(Problem(folder, 1, "", "no such folder"))
            return
        for secret in sorted(found for found in folder.iterdir() if found.is_dir() and not found.name.startswith(".")):
            data = {}
            for file in sorted(found for found in secret.iterdir() if found.is_file()):
                if file.name.startswith("."):
                    continue  # of the file manager or the editor
                try:
                    text = text_of_bytes(file.read_bytes())
                    data[file.name] = text.rstrip("\n") if is_unicode(text) else text
                except OSError as error:
                    self.problems.append(Problem(file, 1, "", f"cannot be read: {error}"))
            self.found.append(Resource("Secret", self.namespace, secret.name, data, {}, secret, 1))

    def _document(self, file: Path, value: Any, lines: FieldLines, project: Path, *, in_folder: bool) -> None:
        def report(message: str, *place: str | int) -> None:
            self.problems.append(Problem(file, lines.at(place), dotted(place), message))

        if in_folder and _is_foreign(value):
            self.foreign.append(f"{value['kind']} at {file}:{lines.at(())}")
            return
        try:
            kind = _checked_kind(value, report)
        except BrokenPlugin as error:
            report(f"{error}; mend or uninstall the package that has it", "kind")
            return
        if kind is None:
            return
        named = self._checked_name(kind, value, report)
        if named is None:
            return
        namespace, name = named
        metadata = value["metadata"]
        labels = metadata.get("labels") or {}
        if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
            report("labels must be texts; quote their values", "metadata", "labels")
            labels = {}
        try:
            spec = _checked_spec(kind, name, value, report)
        except BrokenPlugin as error:  # of a broker that replies go to
            report(f"{error}; mend or uninstall the package that has it", "spec", "reply")
            return
        if spec is None:
            self.invalid_functions |= {(namespace, name)} if kind == "Function" else set()
            return
        annotations = metadata.get("annotations") or {}
        if not isinstance(annotations, dict):
            report(f"{type(annotations).__name__} found; a mapping of texts is needed", "metadata", "annotations")
            annotations = {}
        annotations = {str(key): str(text) for key, text in annotations.items()}
        resource = Resource(kind, namespace, name, spec, labels, file, lines.at(()), annotations, value, project)
        other = next((found for found in self.found if found.uid == resource.uid), None)
        if other is not None:
            report(f"{kind} {name!r} is already defined at {other.file}:{other.line}", "metadata", "name")
            return
        self.found.append(resource)
        self.lines[id(resource)] = lines

    def _checked_name(self, kind: str, value: Mapping[str, Any], report: Report) -> tuple[str, str] | None:
        """Namespace and name, or None after it has reported a problem."""
        metadata = value.get("metadata")
        if not isinstance(metadata, dict):
            report("is needed, with a name", "metadata")
            return None
        name, namespace = metadata.get("name"), metadata.get("namespace", self.namespace)
        for field, found in (("name", name), ("namespace", namespace)):
            if found is None:
                report("is needed", "metadata", field)
                return None
            if not isinstance(found, str) or not _NAME.fullmatch(found):
                report(
                    f"{found!r} is not a valid name; use lower-case letters, digits and -, at most 63",
                    "metadata",
                    field,
                )
                return None
        assert isinstance(name, str)
        if kind == "Function" and (refusal := problem_of_name(name)) is not None:
            report(refusal, "metadata", "name")
            return None
        return str(namespace), name


def _checked_kind(value: Any, report: Report) -> str | None:
    """The kind, or None after it has reported a problem that makes the rest of the document unreadable."""
    if not isinstance(value, dict):
        report("a resource must be a mapping with apiVersion, kind, metadata and spec")
        return None
    kind, version = value.get("kind"), value.get("apiVersion")
    known = kinds() | {"Function", *_CORE_KINDS}
    if not isinstance(kind, str) or kind not in known:
        if isinstance(version, str) and version.startswith("kubeless.io/"):
            report("kubeirq cannot read Kubeless resources yet; write a kubeirq.dev/v1 one", "apiVersion")
            return None
        text = "is needed" if kind is None else f"unknown kind {kind!r}"
        report(text + nearest(str(kind), known), "kind")
        return None
    expected = _version_of(kind)
    if version is None:
        report(f"is needed: {expected}", "apiVersion")
    elif version != expected:
        report(f"{version!r} is not the version of a {kind}; use {expected}", "apiVersion")
    known_fields = (*_TOP_FIELDS, "binaryData", "immutable") if kind in _CORE_KINDS else _TOP_FIELDS
    for name in value:
        if name not in known_fields:
            report(f"unknown field{nearest(str(name), ('apiVersion', 'kind', 'metadata', 'spec'))}", name)
    return kind


def _checked_spec(kind: str, name: str, value: Mapping[str, Any], report: Report) -> Any:
    """The kind's model, or the data by key. None after it has reported a problem."""
    if kind in _CORE_KINDS:
        return _checked_data(kind, value, report)
    model: type[Any] = _function_model() if kind == "Function" else source_of(kind)
    spec = value.get("spec")
    if not isinstance(spec, dict):
        report("is needed", "spec")
        return None
    try:
        found = model.model_validate(spec, by_alias=True, by_name=False)
    except ValidationError as error:
        for place, message in spec_problems(error, model):
            report(message, "spec", *place)
        return None
    except RecursionError:
        report("is nested too deeply", "spec")
        return None
    return found.named(name) if kind == "Function" else found


def _function_model() -> type[Any]:
    from controllers.functions.resource import FunctionSpec  # a fabric without functions does not need it

    return FunctionSpec


def _checked_data(kind: str, value: Mapping[str, Any], report: Report) -> dict[str, str] | None:
    data: dict[str, str] = {}
    for part in _DATA_FIELDS[kind]:
        found = value.get(part) or {}
        if not isinstance(found, dict):
            report(f"{type(found).__name__} found; a mapping of texts is needed", part)
            return None
        for key, text in found.items():
            if text is None and kind == "Secret":
                text = ""  # as the API server reads it
            if not isinstance(text, str):
                report(f"{text!r} is not a text; quote it", part, str(key))
                return None
            if (kind, part) in (("Secret", "data"), ("ConfigMap", "binaryData")):
                try:
                    text = text_of_bytes(base64.b64decode("".join(text.split()), validate=True))
                except ValueError:
                    way_out = "put plain text under stringData" if kind == "Secret" else "put plain text under data"
                    report(f"is not base64; {way_out}", part, str(key))
                    return None
            data[str(key)] = text
    return data


def text_of_bytes(data: bytes) -> str:
    """The text; each byte that is not UTF-8 is a lone surrogate, as in variables and arguments of a process."""
    return data.decode(errors="surrogateescape")


def is_unicode(text: str) -> bool:
    """Whether the text is one, and no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _items_of(value: Any) -> Iterator[tuple[Any, Place]]:
    """The items of a `kind: List` with their places, or the document itself."""
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        for index, item in enumerate(value["items"]):
            yield from ((found, ("items", index, *place)) for found, place in _items_of(item))
    else:
        yield value, ()


def _is_foreign(value: Any) -> bool:
    """Whether it is an object of Kubernetes or of another program, as its group says."""
    if not isinstance(value, dict):
        return False
    kind, version = value.get("kind"), value.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str) or kind in kinds():
        return False
    group, slash, _ = version.rpartition("/")
    if not slash:
        return version == "v1" and kind in _OF_KUBERNETES
    return group not in ("kubeirq.dev", "kubeless.io")


def _version_of(kind: str) -> str:
    """The apiVersion of the kind."""
    if kind in _CORE_KINDS:
        return "v1"
    return f"{'kubeirq.dev' if kind == 'Function' else source_of(kind).api_group}/{VERSION}"


def is_indented_wrongly(problem: str, text: str, line: int) -> bool:
    """Whether the fault is a field that stands deeper than the one before it, which has a value already. Pure."""
    lines = text.splitlines()
    if "mapping values are not allowed" not in problem or not 0 < line < len(lines):
        return False
    here, before = lines[line], lines[line - 1]
    is_one_field = re.fullmatch(r"\s+[\w.-]+:(\s+[^:]*|\S+:\S+)?", here) is not None
    return is_one_field and _column(here) > _column(before) and not before.rstrip().endswith((":", "|", ">"))


def _column(line: str) -> int:
    return len(line) - len(line.lstrip(" -"))
