"""Objects that belong to others: what is wanted of them is made, kept so, and taken away again."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from controllers.cluster.api import FIELD_MANAGER, Api, Object, Refused
from controllers.cluster.differences import has, has_left_over

log = logging.getLogger(__name__)

Key = tuple[str, str]  # namespace, name
Place = tuple[str, str]  # kind, name; within a namespace


class NameTaken(Refused):
    """An object of this name is there and is someone else's: nobody's object is taken over."""


class Owned:
    """What the owners of one kind have, as last heard. `kinds`: of API version and kind; `label` has the owner's name.

    Who watches one of the kinds hands its events to `seen`; of the others `refresh` hears. Owner references delete.
    """

    def __init__(self, api: Api, kinds: Sequence[tuple[str, str]], *, label: str, namespace: str | None = None) -> None:
        self._api = api
        self._kinds = kinds
        self._label = label
        self._namespace = namespace
        self._known: dict[Key, dict[Place, Object]] = {}  # by owner
        self._touched: set[Key] = set()  # what is known of these owners is newer than the listing under way

    async def refresh(self) -> None:
        """Lists everything. A kind that the server does not know has no objects."""
        self._touched.clear()
        listed: dict[Key, dict[Place, Object]] = {}
        for api_version, kind in self._kinds:
            try:
                objects = await self._api.list(api_version, kind, self._namespace, {self._label: ""})
            except Refused as refused:
                if refused.status != 404:
                    raise
                continue
            for found in objects:
                listed.setdefault(self._owner_of(found), {})[place_of(found)] = found
        for key in self._touched:
            listed.pop(key, None)
            if key in self._known:
                listed[key] = self._known[key]
        self._known = listed

    def seen(self, event: Mapping[str, Any]) -> Key:
        """Takes a watch's event. Returns whose object it is about."""
        found = dict(event["object"])
        key = self._owner_of(found)
        self._heard(key, found, gone=event["type"] == "DELETED")
        return key

    def forget(self, key: Key) -> None:
        """The owner is gone, and so will be what it had."""
        self._touched.add(key)
        self._known.pop(key, None)

    def get(self, key: Key, kind: str, name: str) -> Object | None:
        """One of the owner's objects, as last heard."""
        return self._known.get(key, {}).get((kind, name))

    async def have(self, owner: Object, wanted: Sequence[Object]) -> None:
        """Writes each where something is lacking or left over. Raises NameTaken, and what the API server raises."""
        key = key_of(owner)
        for found in wanted:
            live = self.get(key, *place_of(found))
            if live is None or not _is_as(live, found):
                self._heard(key, await self._made(owner, live, found))

    def unwanted(self, owner: Object, wanted: Sequence[Object]) -> list[Object]:
        """What is the owner's and not among these. A label alone makes nobody an owner: people copy them."""
        places = {place_of(found) for found in wanted}
        known = self._known.get(key_of(owner), {})
        return [found for place, found in known.items() if place not in places and _owns(owner, found)]

    async def remove(self, key: Key, found: Object) -> None:
        await self._api.delete(found)
        self._heard(key, found, gone=True)
        log.info("removed", extra=_names(found))

    async def _made(self, owner: Object, live: Object | None, wanted: Object) -> Object:
        """The object once it is as wanted. `live`: what was last heard of it, which lacks something."""
        if live is None or not _owns(owner, live):
            metadata = wanted["metadata"]
            live = await self._api.get(wanted["apiVersion"], wanted["kind"], metadata["namespace"], metadata["name"])
            if live is not None and not _owns(owner, live):
                kind, name = place_of(wanted)
                way_out = f"rename the {owner['kind'].lower()}, or remove it"
                raise NameTaken(409, f"{kind} {name!r} is there and belongs to someone else: {way_out}")
            if live is not None and _is_as(live, wanted):
                return live
        made = await self._api.apply(wanted)
        log.info("applied", extra=_names(wanted))
        return made

    def _heard(self, key: Key, found: Object, *, gone: bool = False) -> None:
        self._touched.add(key)
        if gone:
            self._known.get(key, {}).pop(place_of(found), None)
        else:
            self._known.setdefault(key, {})[place_of(found)] = found

    def _owner_of(self, found: Mapping[str, Any]) -> Key:
        return found["metadata"]["namespace"], found["metadata"]["labels"][self._label]


def key_of(found: Mapping[str, Any]) -> Key:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def place_of(found: Mapping[str, Any]) -> Place:
    return found["kind"], found["metadata"]["name"]


def _is_as(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return has(live, wanted) and not has_left_over(live, wanted, FIELD_MANAGER)


def _owns(owner: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    owners = found["metadata"].get("ownerReferences", [])
    return any(reference.get("uid") == owner["metadata"]["uid"] for reference in owners)


def _names(found: Mapping[str, Any]) -> dict[str, str]:
    """For a line of the log."""
    return {
        "kind": found["kind"],
        "namespace": found["metadata"]["namespace"],
        "object": found["metadata"]["name"],
    }
