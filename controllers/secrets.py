"""The Secrets of the namespaces that may be read, as they are now."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from trigger_sources.source import MissingSecret, SourceError
from trigger_sources.spec import SecretRef

Key = tuple[str, str]  # namespace, name


class Secrets:
    """Filled by a watch. Nothing of it is ever logged or shown."""

    def __init__(self, namespaces: Sequence[str]) -> None:
        self.namespaces = tuple(namespaces)
        self._data: dict[Key, Mapping[str, str]] = {}  # base64 by key
        self._versions: dict[Key, str] = {}

    def seen(self, secret: Mapping[str, Any], *, gone: bool = False) -> Key | None:
        """The Secret's key if its content is another than before."""
        metadata = secret["metadata"]
        key = (metadata["namespace"], metadata["name"])
        data = {} if gone else dict(secret.get("data") or {})
        before = self._data.get(key)
        if gone:
            self._data.pop(key, None)
            self._versions.pop(key, None)
        else:
            self._data[key] = data
            if before != data:
                self._versions[key] = metadata["resourceVersion"]
        return key if before != (None if gone else data) else None

    def text(self, namespace: str, reference: SecretRef) -> str:
        """Raises MissingSecret, or SourceError where this namespace's Secrets may not be read."""
        if namespace not in self.namespaces:
            raise SourceError(
                "SecretForbidden",
                f"Secret {reference.name!r}: the Secrets of namespace {namespace!r} may not be read; "
                "add it to secretNamespaces in the chart's values",
            )
        data = self._data.get((namespace, reference.name))
        if data is None:
            raise MissingSecret(f"no Secret {reference.name!r} in namespace {namespace!r}; create it there")
        if reference.key not in data:
            known = ", ".join(sorted(data)) or "none"
            raise MissingSecret(f"Secret {reference.name!r} has no key {reference.key!r}; it has: {known}")
        try:
            return base64.b64decode(data[reference.key]).decode()
        except ValueError:
            raise MissingSecret(f"Secret {reference.name!r}: key {reference.key!r} is no text in UTF-8") from None

    def versions(self, namespace: str, names: Sequence[str]) -> str:
        """A text that is another one when the content of one of these Secrets is."""
        return " ".join(f"{name}:{self._versions.get((namespace, name), '')}" for name in names)
