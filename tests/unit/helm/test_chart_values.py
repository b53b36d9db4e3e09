"""The chart's values, their schema and their documentation describe the same values."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from controllers.functions import runtimes
from kubeirq.chart_readme import readme

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "kubeirq"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
OF_PARENTS = {"enabled", "global", "global.imageRegistry", "global.imagePullSecrets"}  # a parent chart sets them


def test_the_schema_describes_every_value_and_allows_no_other() -> None:
    for place, node in nodes_of(SCHEMA, ""):
        assert node.get("description") or not place, place
        assert node["type"], place
        if "properties" in node and place != "global":
            assert node["additionalProperties"] is False, place


def test_every_value_has_a_default_or_is_one_of_the_controllers_defaults() -> None:
    known = {place for place, _ in nodes_of(SCHEMA, "")} - OF_PARENTS
    given = {place for place, _ in leaves_of(VALUES, "")}
    assert given <= known
    fields = {f".{name}" for name in VALUES["controllerDefaults"]}
    for place in known - given:
        own = place.startswith("controllers.") and any(f"{field}." in f"{place}." for field in fields)
        assert own or place.startswith("plugins.") or place.endswith(".claims") or ".initResources." in place, place


def test_the_documentation_names_every_value() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    table = text[text.index("## Values") : text.index("## Rights")]
    named = set(re.findall(r"`([a-zA-Z.]+)", table))
    first = {name.split(".")[0] for name in named}
    assert set(VALUES) <= first
    two = {f"{name}.{part}" for name in ("store", "gateway", "kafka", "nats", "rbac", "crds") for part in VALUES[name]}
    assert two <= named


def test_the_appversion_is_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert chart["appVersion"] == version


def test_the_default_runtime_is_one_of_the_catalogue() -> None:
    assert SCHEMA["properties"]["functions"]["properties"]["defaultRuntime"]["enum"] == ["", *runtimes.NAMES]


def test_the_readme_is_the_generated_one() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (CHART / "README.md").read_text() == readme(chart, VALUES, SCHEMA), "say: make docs"


def nodes_of(schema: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of the schema with its path. Items of plugins appear once."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    yield place, schema
    for name, found in schema.get("properties", {}).items():
        yield from nodes_of(found, f"{place}.{name}" if place else name)
    if "properties" in schema.get("items", {}):
        for name, found in schema["items"]["properties"].items():
            yield from nodes_of(found, f"{place}.{name}")


def leaves_of(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every value with its path, including mappings, but without the content of free-form ones."""
    yield place, value
    if isinstance(value, dict) and not place.endswith((".requests", ".limits", ".nodeSelector", ".images")):
        for name, found in value.items():
            yield from leaves_of(found, f"{place}.{name}" if place else name)
