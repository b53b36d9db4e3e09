"""A cache of the Secrets in the namespaces that the controller may read."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controllers.cluster.informer_cache import InformerCache, Version
from trigger_sources.source import MissingSecret, SourceError
from trigger_sources.spec import SecretRef

Key = tuple[str, str]  # namespace, name


class Secrets:
    """Filled by a watch and by periodic lists. It never logs or shows a value."""

    def __init__(self, namespaces: Sequence[str]) -> None:
        self.namespaces = tuple(namespaces)
        self._cache: InformerCache[Key, Mapping[str, str]] = InformerCache()  # base64 by key
        self._versions: dict[Key, int] = {}  # counts the changes of the content

    def observe(self, secret: Mapping[str, Any], *, deleted: bool = False) -> Key | None:
        """Takes an object of a watch event. Returns the Secret's key if its content changed."""
        key, version = _key_of(secret), Version.of(secret)
        if not (self._cache.delete(key, version) if deleted else self._cache.update(key, version, _data_of(secret))):
            return None
        self._increment_version(key)
        return key

    def begin_list(self) -> None:
        """Call this before you list: events from now on are newer than the list."""
        self._cache.begin_list()

    def replace(self, secrets: Iterable[Mapping[str, Any]]) -> None:
        """Takes the result of the list."""
        for key in self._cache.replace({_key_of(found): (Version.of(found), _data_of(found)) for found in secrets}):
            self._increment_version(key)

    def text(self, namespace: str, reference: SecretRef) -> str:
        """The value. Raises MissingSecret, or SourceError if kubeirq may not read Secrets of the namespace."""
        if namespace not in self.namespaces:
            raise SourceError(
                "SecretForbidden",
                f"Secret {reference.name!r}: kubeirq may not read Secrets of namespace {namespace!r}; "
                "add it to secretNamespaces in the chart's values",
            )
        data = self._cache.get((namespace, reference.name))
        if data is None:
            raise MissingSecret(f"there is no Secret {reference.name!r} in namespace {namespace!r}; create it there")
        if reference.key not in data:
            keys = ", ".join(sorted(data)) or "none"
            raise MissingSecret(f"Secret {reference.name!r} has no key {reference.key!r}; its keys: {keys}")
        try:
            return base64.b64decode(data[reference.key]).decode()
        except ValueError:
            raise MissingSecret(f"Secret {reference.name!r}: key {reference.key!r} is not UTF-8 text") from None

    def versions(self, namespace: str, names: Sequence[str]) -> str:
        """A text that changes when the content of one of these Secrets changes."""
        return " ".join(f"{name}:{self._versions.get((namespace, name), 0)}" for name in names)

    def _increment_version(self, key: Key) -> None:
        self._versions[key] = self._versions.get(key, 0) + 1


def _key_of(secret: Mapping[str, Any]) -> Key:
    return secret["metadata"]["namespace"], secret["metadata"]["name"]


def _data_of(secret: Mapping[str, Any]) -> Mapping[str, str]:
    return dict(secret.get("data") or {})
