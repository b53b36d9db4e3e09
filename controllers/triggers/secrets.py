"""The Secrets of the namespaces that may be read, as they are now."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controllers.cluster.informer_cache import InformerCache
from trigger_sources.source import MissingSecret, SourceError
from trigger_sources.spec import SecretRef

Key = tuple[str, str]  # namespace, name


class Secrets:
    """Filled by a watch and by listings. Nothing of it is ever logged or shown."""

    def __init__(self, namespaces: Sequence[str]) -> None:
        self.namespaces = tuple(namespaces)
        self._known: InformerCache[Key, Mapping[str, str]] = InformerCache()  # base64 by key
        self._versions: dict[Key, int] = {}  # how often its content has changed here

    def seen(self, secret: Mapping[str, Any], *, gone: bool = False) -> Key | None:
        """The Secret's key if its content is another than before."""
        key, uid = _key_of(secret), secret["metadata"]["uid"]
        if not (self._known.delete(key, uid) if gone else self._known.update(key, uid, _data_of(secret))):
            return None
        self._changed(key)
        return key

    def listing(self) -> None:
        """A listing begins: what is seen from now on is newer."""
        self._known.begin_list()

    def listed(self, secrets: Iterable[Mapping[str, Any]]) -> None:
        """All there were when they were asked for."""
        for key in self._known.replace(
            {_key_of(found): (found["metadata"]["uid"], _data_of(found)) for found in secrets}
        ):
            self._changed(key)

    def text(self, namespace: str, reference: SecretRef) -> str:
        """Raises MissingSecret, or SourceError where this namespace's Secrets may not be read."""
        if namespace not in self.namespaces:
            raise SourceError(
                "SecretForbidden",
                f"Secret {reference.name!r}: the Secrets of namespace {namespace!r} may not be read; "
                "add it to secretNamespaces in the chart's values",
            )
        data = self._known.get((namespace, reference.name))
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
        return " ".join(f"{name}:{self._versions.get((namespace, name), 0)}" for name in names)

    def _changed(self, key: Key) -> None:
        self._versions[key] = self._versions.get(key, 0) + 1


def _key_of(secret: Mapping[str, Any]) -> Key:
    return secret["metadata"]["namespace"], secret["metadata"]["name"]


def _data_of(secret: Mapping[str, Any]) -> Mapping[str, str]:
    return dict(secret.get("data") or {})
