"""A function's files in a ConfigMap that is named by what is in it: other code, another name, another rollout. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

MOST_BYTES = 900 * 1024  # etcd takes 1 MiB an object; the rest is for names and metadata
_LEGAL_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")


class TooLarge(ValueError):
    """The code does not fit into a ConfigMap: field, size, ways out."""


def config_map_of(
    metadata: Mapping[str, Any], files: Mapping[str, str], *, dependencies: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """An immutable ConfigMap with these files, text by path, and the file of dependencies beside them. Raises TooLarge.

    `metadata` is the object's own; the digest is added to its name.
    """
    data = {key_of(path): text for path, text in sorted(files.items())}
    data |= {dependencies_key_of(name): text for name, text in (dependencies or {}).items()}
    size = sum(len(path.encode()) + len(text.encode()) for path, text in data.items())
    if size > MOST_BYTES:
        raise TooLarge(
            f"spec.source: {size / 1024:.0f} KiB of code and dependencies, and a ConfigMap takes {MOST_BYTES // 1024}; "
            "put the code at a url (with its sha256) or into an image"
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "name": f"{metadata['name']}-{digest_of(data)}"},
        "immutable": True,
        "data": data,
    }


def digest_of(content: Mapping[str, str]) -> str:
    """Ten hex digits that stand for this content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def key_of(path: str) -> str:
    """The key of this file: its path where a key may be spelled so; every path has a key of its own."""
    if _LEGAL_KEY.fullmatch(path):
        return path
    return f"{_ILLEGAL.sub('_', path)[-150:]}.{hashlib.sha256(path.encode()).hexdigest()[:10]}"


def dependencies_key_of(name: str) -> str:
    """The key of the file of dependencies: none that a path has, since code may have a file of that name too."""
    return f".{name}"
