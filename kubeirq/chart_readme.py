"""The README of the Helm chart: a table of its values, with their defaults and the descriptions of their schema.

`python -m kubeirq.chart_readme helm/kubeirq` writes it into that folder.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# Values whose fields have no rows: those of a container, and those of controllerDefaults
_OF_CONTAINERS = ("resources", "initResources")
_OF_CONTROLLERS = "controllers."

_HEAD = """# Helm chart kubeirq

{description}.
[On a cluster](../../docs/kubernetes.md) says how to install the chart.

`make docs` writes this page from `values.yaml` and `values.schema.json`. The chart refuses values
that are not in the table.

## Values

"""


def readme(chart: dict[str, Any], values: dict[str, Any], schema: dict[str, Any]) -> str:
    """The page, from the parsed Chart.yaml, values.yaml and values.schema.json. Pure."""
    lines = ["| value | default | meaning |", "| --- | --- | --- |"]
    for place, default, meaning in _rows(schema, schema, values, ""):
        lines.append(f"| `{place}` | {default} | {meaning} |".replace("|  |", "| |"))
    return _HEAD.format(description=chart["description"]) + "\n".join(lines) + "\n"


def _rows(root: dict[str, Any], schema: dict[str, Any], values: Any, place: str) -> Iterator[tuple[str, str, str]]:
    """A row for each value that has no fields of its own: its place, its default and its meaning."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    fields = schema.get("properties")
    if fields and not place.endswith(_OF_CONTAINERS) and not place.startswith(_OF_CONTROLLERS):
        for name, found in fields.items():
            within = values.get(name) if isinstance(values, dict) else None
            yield from _rows(root, found, within, f"{place}.{name}" if place else name)
    else:
        default = "" if values is None else f"`{json.dumps(values, ensure_ascii=False)}`"
        yield place, default, schema["description"].replace("|", "\\|")


def main(folder: Path) -> None:
    chart, values = (yaml.safe_load((folder / name).read_text()) for name in ("Chart.yaml", "values.yaml"))
    schema = json.loads((folder / "values.schema.json").read_text())
    (folder / "README.md").write_text(readme(chart, values, schema))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
