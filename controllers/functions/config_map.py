"""The ConfigMap with a function's files. Its name contains a digest, so that new code leads to a rollout. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

MAX_BYTES = 900 * 1024  # etcd takes 1 MiB for an object; the rest is for names and metadata
_LEGAL_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")


class TooLarge(ValueError):
    """The code does not fit into a ConfigMap. The text has field, size and ways out."""


def config_map_of(
    metadata: Mapping[str, Any], files: Mapping[str, str], *, dependencies: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """An immutable ConfigMap with these files and the dependencies file. Raises TooLarge.

    `files` has each file's text by its path, `dependencies` the text by the name. The digest is appended to the name in
    `metadata`.
    """
    data = {key_of(path): text for path, text in sorted(files.items())}
    data |= {dependencies_key_of(name): text for name, text in (dependencies or {}).items()}
    size = sum(len(path.encode()) + len(text.encode()) for path, text in data.items())
    if size > MAX_BYTES:
        raise TooLarge(
            f"spec.source: {size / 1024:.0f} KiB of code and dependencies, but a ConfigMap takes {MAX_BYTES // 1024}; "
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
    """A digest of the content, ten hex digits long."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def key_of(path: str) -> str:
    """The ConfigMap key of a file: its path, or a unique replacement if the path is not a legal key."""
    if _LEGAL_KEY.fullmatch(path):
        return path
    return f"{_ILLEGAL.sub('_', path)[-150:]}.{hashlib.sha256(path.encode()).hexdigest()[:10]}"


def dependencies_key_of(name: str) -> str:
    """The ConfigMap key of the dependencies file. No path has this key, because the code may have such a file too."""
    return f".{name}"
