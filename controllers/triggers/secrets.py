"""A cache of the Secrets in the namespaces whose triggers refer to some. Pure."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controllers.cluster.informer_cache import InformerCache, Version
from trigger_sources.source import MissingSecret, SourceError
from trigger_sources.spec import SecretRef


@dataclass
class _Namespace:
    """`problem` says why its Secrets are not known: reason and message. None once they are listed."""

    problem: tuple[str, str] | None
    cache: InformerCache[str, Mapping[str, str]] = field(default_factory=InformerCache)  # base64 by key, by name


class Secrets:
    """Filled by `SecretWatches`. It never logs or shows a value. `way_out` says how to allow a namespace."""

    def __init__(self, way_out: str = "") -> None:
        self._way_out = way_out
        self._namespaces: dict[str, _Namespace] = {}
        self._versions: dict[tuple[str, str], int] = {}  # by namespace and name; counts the changes of the content

    def is_listed(self, namespace: str) -> bool:
        """Whether the Secrets of the namespace are known."""
        return namespace in self._namespaces and self._namespaces[namespace].problem is None

    def observe(self, secret: Mapping[str, Any], *, deleted: bool = False) -> set[str]:
        """Takes an object of a watch event. Returns the Secret's name if its content changed."""
        name, version = secret["metadata"]["name"], Version.of(secret)
        cache = self._of(secret["metadata"]["namespace"]).cache
        is_changed = cache.delete(name, version) if deleted else cache.update(name, version, _data_of(secret))
        return self._changed(secret["metadata"]["namespace"], {name} if is_changed else set())

    def begin_list(self, namespace: str) -> None:
        """Call this before you list: events from now on are newer than the list."""
        self._of(namespace).cache.begin_list()

    def replace(self, namespace: str, secrets: Iterable[Mapping[str, Any]]) -> set[str]:
        """Takes the result of the list. Returns the names of the Secrets whose content changed."""
        found = self._of(namespace)
        found.problem = None
        listed = {each["metadata"]["name"]: (Version.of(each), _data_of(each)) for each in secrets}
        return self._changed(namespace, found.cache.replace(listed))

    def forbid(self, namespace: str) -> set[str]:
        """The API server refuses the list: drops what is known. Returns the names of these Secrets."""
        return self._lose(namespace, "SecretForbidden", f"kubeirq may not read Secrets of namespace {namespace!r}")

    def fail(self, namespace: str, problem: str) -> None:
        """The Secrets cannot be listed now. Those that are known stay."""
        if not self.is_listed(namespace):
            self._lose(namespace, "SecretsUnread", f"the Secrets of namespace {namespace!r} cannot be read: {problem}")

    def drop(self, namespace: str) -> None:
        """Forgets a namespace whose triggers refer to no Secret any more."""
        self._namespaces.pop(namespace, None)
        self._versions = {key: version for key, version in self._versions.items() if key[0] != namespace}

    def text(self, namespace: str, reference: SecretRef) -> str:
        """The value. Raises MissingSecret, or SourceError if the Secrets of the namespace are not known."""
        found = self._of(namespace)
        if found.problem is not None:
            reason, message = found.problem
            way_out = f"; {self._way_out.format(namespace=namespace)}" if reason == "SecretForbidden" else ""
            raise SourceError(reason, f"Secret {reference.name!r}: {message}{way_out}")
        data = found.cache.get(reference.name)
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

    def _of(self, namespace: str) -> _Namespace:
        unread = ("SecretsUnread", f"the Secrets of namespace {namespace!r} are not read yet")
        return self._namespaces.setdefault(namespace, _Namespace(unread))

    def _lose(self, namespace: str, reason: str, message: str) -> set[str]:
        known = set(self._of(namespace).cache)
        self._namespaces[namespace] = _Namespace((reason, message))
        return self._changed(namespace, known)

    def _changed(self, namespace: str, names: set[str]) -> set[str]:
        for name in names:
            self._versions[namespace, name] = self._versions.get((namespace, name), 0) + 1
        return names


def way_out_of(role: str, account: str) -> str:
    """The command with which a person lets kubeirq read the Secrets of a `{namespace}`.

    `role` is the ClusterRole that the chart has for this, empty for none. `account` is namespace:name of the service
    account of this process.
    """
    if not role or not account:
        return "add it to secretNamespaces in the chart's values"
    binding = account.rpartition(":")[2]
    return (
        f"an admin of the namespace types: kubectl create rolebinding {binding}-secrets --clusterrole={role}"
        f" --serviceaccount={account} --namespace={{namespace}}"
    )


def _data_of(secret: Mapping[str, Any]) -> Mapping[str, str]:
    return dict(secret.get("data") or {})
