"""Dependent objects: a controller creates, updates and deletes the objects that its resources own."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from controllers.cluster.api import FIELD_MANAGER, Api, Object, Refused
from controllers.cluster.differences import contains, has_stale_fields

log = logging.getLogger(__name__)

Key = tuple[str, str]  # namespace, name
Reference = tuple[str, str]  # kind, name; within a namespace


class NameTaken(Refused):
    """An object with this name exists and has no owner reference to the owner. A controller adopts no objects."""


class OwnedObjects:
    """A cache of the objects that the resources of one kind own, and the writes that keep them as desired.

    `kinds` are pairs of API version and kind. `label` is the label with the owner's name. Pass the events of a watch to
    `observe`; without a watch, `refresh` observes a kind. When an owner is deleted, its owner references delete its
    objects.
    """

    def __init__(self, api: Api, kinds: Sequence[tuple[str, str]], *, label: str, namespace: str | None = None) -> None:
        self._api = api
        self._kinds = kinds
        self._label = label
        self._namespace = namespace
        self._live: dict[Key, dict[Reference, Object]] = {}  # by owner
        self._changed_since_list: set[Key] = set()  # owners whose entries are newer than the list that is under way

    async def refresh(self) -> None:
        """Lists all kinds. A kind that the server does not have counts as empty."""
        self._changed_since_list.clear()
        listed: dict[Key, dict[Reference, Object]] = {}
        for api_version, kind in self._kinds:
            try:
                objects = await self._api.list(api_version, kind, self._namespace, {self._label: ""})
            except Refused as refused:
                if refused.status != 404:
                    raise
                continue
            for found in objects:
                listed.setdefault(self._owner_of(found), {})[reference_of(found)] = found
        for key in self._changed_since_list:
            listed.pop(key, None)
            if key in self._live:
                listed[key] = self._live[key]
        self._live = listed

    def observe(self, event: Mapping[str, Any]) -> Key:
        """Takes a watch event. Returns the owner of the object."""
        found = dict(event["object"])
        key = self._owner_of(found)
        self._store(key, found, deleted=event["type"] == "DELETED")
        return key

    def forget(self, key: Key) -> None:
        """Drops the entries of a deleted owner."""
        self._changed_since_list.add(key)
        self._live.pop(key, None)

    def get(self, key: Key, kind: str, name: str) -> Object | None:
        """One of the owner's objects, as last observed."""
        return self._live.get(key, {}).get((kind, name))

    async def ensure(self, owner: Object, wanted: Sequence[Object]) -> None:
        """Applies each object that lacks a field or has a stale one. Raises NameTaken and the API server's errors."""
        key = key_of(owner)
        for found in wanted:
            live = self.get(key, *reference_of(found))
            if live is None or not _matches(live, found):
                answer = await self._ensure(owner, live, found)
                # A watch event that came during the write may be newer than its answer; the watch brings the write too
                if self.get(key, *reference_of(found)) is live:
                    self._store(key, answer)

    def unwanted(self, owner: Object, wanted: Sequence[Object]) -> list[Object]:
        """The owner's other objects. The owner reference decides, not the label, because people copy labels."""
        references = {reference_of(found) for found in wanted}
        live = self._live.get(key_of(owner), {})
        return [found for reference, found in live.items() if reference not in references and _owns(owner, found)]

    async def remove(self, key: Key, found: Object) -> None:
        await self._api.delete(found)
        self._store(key, found, deleted=True)
        log.info("removed", extra=_log_fields(found))

    async def _ensure(self, owner: Object, live: Object | None, wanted: Object) -> Object:
        """Returns the object in its desired state. `live` is the last observed state, which differs."""
        if live is None or not _owns(owner, live):
            metadata = wanted["metadata"]
            live = await self._api.get(wanted["apiVersion"], wanted["kind"], metadata["namespace"], metadata["name"])
            if live is not None and not _owns(owner, live):
                (kind, name), owner_kind = reference_of(wanted), owner["kind"].lower()
                way_out = f"rename the {owner_kind}, or delete the {kind}"
                raise NameTaken(409, f"{kind} {name!r} exists already and is not this {owner_kind}'s; {way_out}")
            if live is not None and _matches(live, wanted):
                return live
        applied = await self._api.apply(wanted)
        log.info("applied", extra=_log_fields(wanted))
        return applied

    def _store(self, key: Key, found: Object, *, deleted: bool = False) -> None:
        self._changed_since_list.add(key)
        if deleted:
            self._live.get(key, {}).pop(reference_of(found), None)
        else:
            self._live.setdefault(key, {})[reference_of(found)] = found

    def _owner_of(self, found: Mapping[str, Any]) -> Key:
        return found["metadata"]["namespace"], found["metadata"]["labels"][self._label]


def key_of(found: Mapping[str, Any]) -> Key:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def reference_of(found: Mapping[str, Any]) -> Reference:
    return found["kind"], found["metadata"]["name"]


def _matches(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return contains(live, wanted) and not has_stale_fields(live, wanted, FIELD_MANAGER)


def _owns(owner: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    owners = found["metadata"].get("ownerReferences", [])
    return any(reference.get("uid") == owner["metadata"]["uid"] for reference in owners)


def _log_fields(found: Mapping[str, Any]) -> dict[str, str]:
    return {
        "kind": found["kind"],
        "namespace": found["metadata"]["namespace"],
        "object": found["metadata"]["name"],
    }
