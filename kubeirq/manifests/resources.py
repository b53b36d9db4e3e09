"""The resources that manifests define."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from trigger_sources.problems import Problem

EXAMPLE = "kubeirq.dev/example"  # a trigger's annotation: an event that its function can process


class InvalidManifests(Exception):
    """The manifests have problems: one line for each, with its place."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> "InvalidManifests":
        return cls([str(problem) for problem in sorted(problems)])


@dataclass(frozen=True)
class Resource:
    """One resource as its file has it. `spec` is the kind's model; for a Secret or ConfigMap its data by key."""

    kind: str
    namespace: str
    name: str
    spec: Any
    labels: Mapping[str, str]
    file: Path
    line: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, compare=False)  # as written; empty for a secrets folder
    project: Path | None = field(default=None, compare=False)  # the folder that its files must be in; None: the file's

    @property
    def uid(self) -> str:
        return f"{self.namespace}/{self.kind}/{self.name}"


@dataclass(frozen=True)
class Resources:
    """All resources of a set of manifests."""

    found: Sequence[Resource] = ()
    foreign: Sequence[str] = ()  # kind and place of each object in the folders that is for other programs

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
