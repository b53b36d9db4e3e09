"""The last edits of a resource: the clients and the fields. `metadata.managedFields` has them, without values. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubeirq.output.formats import ago

_MOST_FIELDS = 4
_MOST_EDITS = 2
_SAME_SECONDS = 2  # a write at the creation, by the time of the API server
# The API server and controllers keep these; no person means them
_NOT_MEANT = (
    "metadata.finalizers",
    "metadata.ownerReferences",
    "metadata.annotations.kubectl.kubernetes.io/last-applied-configuration",
)
_REFERENCES = {
    "secretKeyRef": "Secret",
    "secretRef": "Secret",
    "configMapKeyRef": "ConfigMap",
    "configMapRef": "ConfigMap",
    "configMap": "ConfigMap",
}


@dataclass(frozen=True)
class Edit:
    """The last write of one manager. `fields` are all that it owns: the API server keeps no finer record."""

    at: float
    by: str
    fields: Sequence[str]
    creates: bool

    def line(self, what: str) -> str:
        shown = ", ".join(self.fields[:_MOST_FIELDS])
        more = f" and {len(self.fields) - _MOST_FIELDS} more" if len(self.fields) > _MOST_FIELDS else ""
        verb = "created" if self.creates else "edited"
        return f"  {what} {verb} at {ago(self.at)}, by {self.by}" + ("" if self.creates else f": {shown}{more}")


def last_edits(metadata: Mapping[str, Any]) -> list[Edit]:
    """The newest edits, of one manager each; the creation, if nobody has edited the resource since."""
    created = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
    found = []
    for entry in metadata.get("managedFields", []):
        fields = [path for path in _paths(entry.get("fieldsV1") or {}) if not path.startswith(_NOT_MEANT)]
        if entry.get("subresource") or not entry.get("time") or not fields:
            continue
        at = datetime.fromisoformat(entry["time"]).timestamp()
        found.append(Edit(at, entry.get("manager") or "an unknown client", fields, at - created < _SAME_SECONDS))
    found.sort(key=lambda edit: -edit.at)
    return [edit for edit in found if not edit.creates][:_MOST_EDITS] or found[:1]


def references_in(spec: Any) -> list[tuple[str, str]]:
    """The kinds and names of the Secrets and ConfigMaps that a spec names."""
    return sorted(set(_references(spec)))


def _references(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for part in value:
            yield from _references(part)
    elif isinstance(value, dict):
        # A trigger's reference to a key of a Secret has no field around it that tells the kind
        if value.keys() == {"name", "key"} and all(isinstance(text, str) for text in value.values()):
            yield "Secret", value["name"]
        for field, part in value.items():
            kind = _REFERENCES.get(field)
            if kind is not None and isinstance(part, dict):
                if isinstance(part.get("name"), str):
                    yield kind, part["name"]
            else:
                yield from _references(part)


def _paths(fields: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted paths of the deepest fields of a `fieldsV1`. An element of a list shows what identifies it."""
    for name, below in fields.items():
        if name == ".":
            continue
        kind, _, rest = name.partition(":")
        path = f"{above}{_element(kind, rest)}" if kind != "f" else f"{above}.{rest}" if above else rest
        deeper = list(_paths(below, path)) if isinstance(below, dict) and kind == "f" else []
        yield from deeper or [path]


def _element(kind: str, rest: str) -> str:
    if kind == "k":
        try:
            return f"[{','.join(map(str, json.loads(rest).values()))}]"
        except (ValueError, AttributeError):
            return "[]"
    return f"[{rest}]" if kind == "i" else "[]"
