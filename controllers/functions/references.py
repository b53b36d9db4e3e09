"""The ConfigMaps that Functions refer to. When the content changes, the pods have another annotation: a rollout."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controllers.cluster.api import Api
from controllers.cluster.informer_cache import Version
from controllers.cluster.operator import Event
from controllers.functions.config_map import digest_of
from controllers.functions.resource import FunctionSpec

Key = tuple[str, str]  # namespace, name
Reference = tuple[str, str]  # the name of a ConfigMap, and a key of it; an empty key stands for all keys


def references_of(spec: FunctionSpec) -> list[Reference]:
    """The ConfigMaps and keys that the code and the variables of a Function come from."""
    return sorted(set(_references(spec)))


def _references(spec: FunctionSpec) -> Iterator[Reference]:
    if spec.source.config_map is not None:
        yield spec.source.config_map.name, spec.source.config_map.key
    for variable in spec.env:
        if variable.value_from is not None and (found := variable.value_from.config_map_key_ref) is not None:
            yield found.name, found.key
    for source in spec.env_from:
        if isinstance(name := (source.get("configMapRef") or {}).get("name"), str):
            yield name, ""


@dataclass(frozen=True)
class _Content:
    version: Version
    digests: Mapping[str, str]  # by key


class References:
    """The content of the ConfigMaps that Functions refer to, as digests. It reads each one once and after a change."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._users: dict[Key, set[Key]] = {}  # by ConfigMap: the Functions
        self._names: dict[Key, set[str]] = {}  # by Function: the names of the ConfigMaps
        self._contents: dict[Key, _Content | None] = {}  # None: it does not exist
        self._reads: dict[Key, object] = {}  # the newest read of each, unless an event came since it began

    def observe(self, event: Event) -> Sequence[Key]:
        """Takes a watch event of a ConfigMap. Returns the Functions that refer to it if it may have changed."""
        metadata = event["object"]["metadata"]
        key = (metadata["namespace"], metadata["name"])
        users = self._users.get(key)
        if users is None:
            return ()
        self._reads.pop(key, None)
        known, version = self._contents.get(key), Version.of(event["object"])
        if known is not None and (version == known.version or version.is_older_than(known.version)):
            return ()
        self._contents.pop(key, None)
        return tuple(users)

    def forget(self, function: Key) -> None:
        """Drops a deleted Function."""
        self._set_names(function, set())

    async def digest_of(self, function: Key, spec: FunctionSpec) -> str | None:
        """A text that changes with the content. Empty without references, None while one of them does not exist."""
        references = references_of(spec)
        self._set_names(function, {name for name, _ in references})
        found: dict[str, str] = {}
        for name, key in references:
            content = await self._content_of((function[0], name))
            if content is None or (key and key not in content.digests):
                return None
            digests = {key: content.digests[key]} if key else content.digests
            found |= {f"{name}/{each}": digest for each, digest in digests.items()}
        return digest_of(found) if references else ""

    def _set_names(self, function: Key, names: set[str]) -> None:
        before = self._names.pop(function, set())
        for name in before - names:
            key = (function[0], name)
            self._users[key].discard(function)
            if not self._users[key]:
                del self._users[key]
                self._contents.pop(key, None)
        for name in names:
            self._users.setdefault((function[0], name), set()).add(function)
        if names:
            self._names[function] = names

    async def _content_of(self, key: Key) -> _Content | None:
        if key in self._contents:
            return self._contents[key]
        this = self._reads[key] = object()
        try:
            found = await self._api.get("v1", "ConfigMap", *key)
        finally:
            is_newest = self._reads.get(key) is this
            if is_newest:
                del self._reads[key]
        content = None if found is None else _Content(Version.of(found), _digests_of(found))
        if is_newest and key in self._users:
            self._contents[key] = content
        return content


def _digests_of(config_map: Mapping[str, Any]) -> Mapping[str, str]:
    values = {**(config_map.get("data") or {}), **(config_map.get("binaryData") or {})}
    return {name: hashlib.sha256(value.encode()).hexdigest() for name, value in values.items()}
