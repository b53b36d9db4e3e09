"""An object that was valid with an earlier version's definitions is valid now, and means the same.

A difference that is intended stands in `INTENDED`, with its reason. A release records its definitions:
see `tests/recorded/definitions.py`.
"""

import copy
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from controllers.definitions.crds import crd_of

RECORDED = sorted((Path(__file__).parents[3] / "recorded").glob("definitions_*.json.gz"))
INTENDED = {
    "definitions_0_1_0.json.gz": {
        "Function.spec.failureDetail: new, with a default": "0.1.0 runs a Function without the fields that it does not"
        " know",
        "Function.spec.source.url: another pattern": "a password in the address came into pods' arguments and statuses;"
        " source.authorization names a Secret",
        "Function.spec.source: a new rule: !has(self.authorization) || has(self.url)": "the field authorization is new",
        "Function.status.revision: removed": "no version wrote it",
    }
}

_LEAST = ("minimum", "minLength", "minItems", "minProperties")
_MOST = ("maximum", "maxLength", "maxItems", "maxProperties")
_SAME = ("type", "default", "x-kubernetes-list-type", "x-kubernetes-list-map-keys")
_SAME_OR_GONE = ("pattern", "format", "multipleOf")
_FLAGS = ("nullable", "x-kubernetes-preserve-unknown-fields")  # true lets more in
_EXCLUSIVE = ("exclusiveMinimum", "exclusiveMaximum")  # true lets less in
_COMPARED = {
    *(*_LEAST, *_MOST, *_SAME, *_SAME_OR_GONE, *_FLAGS, *_EXCLUSIVE),
    *("enum", "required", "properties", "items", "additionalProperties", "x-kubernetes-validations", "description"),
}


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.name)
def test_what_an_earlier_version_took_is_taken_and_means_the_same(recorded: Path) -> None:
    earlier = json.loads(gzip.decompress(recorded.read_bytes()))
    assert set(earlier) >= {"Function", "HTTPTrigger", "CronTrigger", "KafkaTrigger", "NATSTrigger"}
    found = [breach for kind, spec in earlier.items() for breach in breaches(kind, spec, crd_of(kind)["spec"])]
    assert sorted(found) == sorted(INTENDED[recorded.name])


FIELD = {"type": "integer", "minimum": 1, "maximum": 9, "default": 3}
NODE = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "enum": ["a", "b"]}, "size": FIELD},
    "x-kubernetes-validations": [{"rule": "self.size > 0", "message": "m"}],
}


@pytest.mark.parametrize(
    ("change", "breach"),
    [
        (lambda node: node["properties"].pop("size"), "k.size: removed"),
        (lambda node: node["required"].append("size"), "k: size is required"),
        (lambda node: node["properties"]["name"]["enum"].remove("b"), "k.name: without the value b"),
        (lambda node: node["properties"]["size"].update(enum=[1, 2]), "k.size: a list of values"),
        (lambda node: node["properties"]["size"].update(minimum=2), "k.size: another minimum"),
        (lambda node: node["properties"]["size"].update(maximum=8), "k.size: another maximum"),
        (lambda node: node["properties"]["size"].update(exclusiveMinimum=True), "k.size: exclusiveMinimum"),
        (lambda node: node["properties"]["size"].update(type="number"), "k.size: another type"),
        (lambda node: node["properties"]["size"].update(default=4), "k.size: another default"),
        (lambda node: node["properties"]["size"].pop("default"), "k.size: another default"),
        (lambda node: node["properties"]["name"].update(default="a"), "k.name: another default"),
        (lambda node: node["properties"]["name"].update(maxLength=5), "k.name: another maxLength"),
        (lambda node: node["properties"]["name"].update(pattern="^a"), "k.name: another pattern"),
        (lambda node: node["x-kubernetes-validations"].append({"rule": "false"}), "k: a new rule: false"),
        (lambda node: node["properties"].update(new={"type": "string", "default": "a"}), "k.new: new, with a default"),
        (lambda node: node["properties"]["name"].update({"x-new": 1}), "k.name: nobody compares x-new"),
    ],
)
def test_a_change_that_refuses_or_changes_what_was_valid_is_found(change: Callable[[Any], None], breach: str) -> None:
    later = copy.deepcopy(NODE)
    change(later)
    assert list(_narrower("k", NODE, later)) == [breach]


def test_a_version_may_add_fields_and_values_and_widen_bounds() -> None:
    later = copy.deepcopy(NODE)
    later["properties"]["new"] = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}
    later["properties"]["name"]["enum"].append("c")
    later["properties"]["size"].update(minimum=0, maximum=10, nullable=True)
    later["required"], later["x-kubernetes-validations"] = [], []
    assert list(_narrower("k", NODE, later)) == []


# --- helpers


def breaches(kind: str, earlier: Mapping[str, Any], later: Mapping[str, Any]) -> Iterator[str]:
    """The ways in which an object or a client of the earlier definition may fail with the later one."""
    for name in ("group", "scope"):
        if earlier[name] != later[name]:
            yield f"{kind}: another {name}"
    for name, value in earlier["names"].items():
        kept = set(value) <= set(later["names"].get(name, ())) if isinstance(value, list) else None
        if kept is False or (kept is None and later["names"].get(name) != value):
            yield f"{kind}: another name: {name}"
    versions = {found["name"]: found for found in later["versions"]}
    for version in earlier["versions"]:
        now = versions.get(version["name"])
        if now is None or not now["served"]:
            yield f"{kind}: {version['name']} is not served"
            continue
        if any(now["subresources"].get(name) != found for name, found in version["subresources"].items()):
            yield f"{kind}: another subresource"
        yield from _narrower(kind, version["schema"]["openAPIV3Schema"], now["schema"]["openAPIV3Schema"])


def _narrower(place: str, earlier: Mapping[str, Any], later: Mapping[str, Any]) -> Iterator[str]:
    """The ways in which this part of a schema refuses something that it took, or gives it another meaning."""
    yield from (f"{place}: nobody compares {name}" for name in later if name not in _COMPARED)
    yield from (f"{place}: another {name}" for name in _SAME if earlier.get(name) != later.get(name))
    yield from (
        f"{place}: another {name}" for name in _SAME_OR_GONE if later.get(name, earlier.get(name)) != earlier.get(name)
    )
    for names, is_narrower in ((_LEAST, lambda old, new: new > old), (_MOST, lambda old, new: new < old)):
        for name in names:
            if name in later and (name not in earlier or is_narrower(earlier[name], later[name])):
                yield f"{place}: another {name}"
    yield from (f"{place}: {name}" for name in _EXCLUSIVE if later.get(name) and not earlier.get(name))
    yield from (f"{place}: not {name}" for name in _FLAGS if earlier.get(name) and not later.get(name))
    if "enum" in later and "enum" not in earlier:
        yield f"{place}: a list of values"
    elif "enum" in later:
        yield from (f"{place}: without the value {value}" for value in earlier["enum"] if value not in later["enum"])
    yield from (
        f"{place}: {name} is required" for name in later.get("required", ()) if name not in earlier.get("required", ())
    )
    rules = {found["rule"] for found in earlier.get("x-kubernetes-validations", ())}
    for found in later.get("x-kubernetes-validations", ()):
        if found["rule"] not in rules:
            yield f"{place}: a new rule: {found['rule']}"
    for name in ("items", "additionalProperties"):
        if name in earlier and name in later:
            yield from _narrower(f"{place}[]", earlier[name], later[name])
        elif name in earlier:
            yield f"{place}: no {name}"
    for name, part in later.get("properties", {}).items():
        if name not in earlier.get("properties", {}) and "default" in part:
            yield f"{place}.{name}: new, with a default"  # the API server writes it into every object
    for name, part in earlier.get("properties", {}).items():
        if name not in later.get("properties", {}):
            yield f"{place}.{name}: removed"
        else:
            yield from _narrower(f"{place}.{name}", part, later["properties"][name])
