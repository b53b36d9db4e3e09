"""Records the definitions of a version, without their descriptions, for the test that compares them with those of now.

Usage: helm template kubeirq helm/kubeirq | .venv/bin/python tests/recorded/definitions.py > tests/recorded/FILE
`definitions_0_1_0.json.gz` is of commit b752791.
"""

import gzip
import json
import sys
from typing import Any

import yaml


def without_descriptions(node: Any, *, names_fields: bool = False) -> Any:
    """`names_fields`: the keys of this mapping are the names of fields, one of which may be `description`."""
    if isinstance(node, list):
        return [without_descriptions(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {
        name: without_descriptions(part, names_fields=name == "properties" and not names_fields)
        for name, part in node.items()
        if names_fields or name != "description"
    }


def main() -> None:
    documents = [found for found in yaml.safe_load_all(sys.stdin) if found is not None]
    definitions = [found for found in documents if found["kind"] == "CustomResourceDefinition"]
    found = {
        definition["spec"]["names"]["kind"]: without_descriptions(definition["spec"]) for definition in definitions
    }
    sys.stdout.buffer.write(gzip.compress(json.dumps(found).encode(), mtime=0))


if __name__ == "__main__":
    main()
