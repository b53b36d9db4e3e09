"""Reads YAML documents into resources, and notes every problem with its file, line and field."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml
from pydantic import BaseModel, ValidationError

from controllers.functions.resource import FunctionSpec
from kubeirq.manifests.field_lines import FieldLines
from kubeirq.manifests.resources import Resource
from kubeirq.manifests.yaml_documents import documents_of, value_of
from trigger_sources.problems import Problem, dotted, nearest, spec_problems
from trigger_sources.registry import kinds, source_of
from trigger_sources.spec import problem_of_name

VERSION = "v1"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_CORE_KINDS = ("Secret", "ConfigMap")
_TOP_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status", "data", "stringData", "type")


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
        self.invalid_functions: set[tuple[str, str]] = set()  # namespace and name; other resources may refer to them

    def read(self, file: Path, project: Path) -> None:
        """Reads a manifest. The files that it names must be in the folder `project`."""
        try:
            documents = documents_of(file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(Problem(file, 1, "", f"cannot be read: {error}"))
            return
        except yaml.YAMLError as error:
            self._not_yaml(file, error, "invalid YAML")
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
            self._document(file, value, lines, project)

    def _not_yaml(self, file: Path, error: yaml.YAMLError, prefix: str) -> None:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        self.problems.append(Problem(file, mark.line + 1 if mark else 1, "", f"{prefix}: {problem}"))

    def read_secrets(self, folder: Path) -> None:
        if not folder.is_dir():
            self.problems.append(Problem(folder, 1, "", "no such folder"))
            return
        for secret in sorted(found for found in folder.iterdir() if found.is_dir() and not found.name.startswith(".")):
            data = {}
            for file in sorted(found for found in secret.iterdir() if found.is_file()):
                try:
                    data[file.name] = file.read_text().rstrip("\n")
                except (OSError, UnicodeDecodeError) as error:
                    self.problems.append(Problem(file, 1, "", f"cannot be read: {error}"))
            self.found.append(Resource("Secret", self.namespace, secret.name, data, {}, secret, 1))

    def _document(self, file: Path, value: Any, lines: FieldLines, project: Path) -> None:
        def report(message: str, *place: str | int) -> None:
            self.problems.append(Problem(file, lines.at(place), dotted(place), message))

        kind = _checked_kind(value, report)
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
        spec = _checked_spec(kind, name, value, report)
        if spec is None:
            self.invalid_functions |= {(namespace, name)} if kind == "Function" else set()
            return
        annotations = {str(key): str(text) for key, text in (metadata.get("annotations") or {}).items()}
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
    for name in value:
        if name not in _TOP_FIELDS:
            report(f"unknown field{nearest(str(name), ('apiVersion', 'kind', 'metadata', 'spec'))}", name)
    return kind


def _checked_spec(kind: str, name: str, value: Mapping[str, Any], report: Report) -> Any:
    """The kind's model, or the data by key. None after it has reported a problem."""
    if kind in _CORE_KINDS:
        return _checked_data(kind, value, report)
    model: type[BaseModel] = FunctionSpec if kind == "Function" else source_of(kind)
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
    return found.named(name) if isinstance(found, FunctionSpec) else found


def _checked_data(kind: str, value: Mapping[str, Any], report: Report) -> dict[str, str] | None:
    data: dict[str, str] = {}
    for part in ("data", "stringData"):
        for key, text in (value.get(part) or {}).items():
            if not isinstance(text, str):
                report(f"{text!r} is not a text; quote it", part, key)
                return None
            if kind == "Secret" and part == "data":
                try:
                    text = base64.b64decode(text, validate=True).decode()
                except ValueError:
                    report("is not base64; put plain text under stringData", part, key)
                    return None
            data[str(key)] = text
    return data


def _version_of(kind: str) -> str:
    """The apiVersion of the kind."""
    if kind in _CORE_KINDS:
        return "v1"
    return f"{'kubeirq.dev' if kind == 'Function' else source_of(kind).api_group}/{VERSION}"
