"""Dependent objects: a controller creates, updates and deletes the objects that its resources own."""

import hashlib
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from controllers.cluster.api import FIELD_MANAGER, Api, Object, Refused, with_shared_texts
from controllers.cluster.differences import contains, differing_fields, has_stale_fields, overridden_fields
from controllers.cluster.informer_cache import InformerCache, Version
from controllers.cluster.put_backs import MOST, PutBacks
from controllers.cluster.relist import METADATA_PAGE_SIZE, relist

log = logging.getLogger(__name__)

Key = tuple[str, str]  # namespace, name
Reference = tuple[str, str]  # kind, name; within a namespace
_ObjectKey = tuple[str, str, str]  # kind, namespace, name

_SHOWN_FIELDS = 5
APPLIED = "kubeirq.dev/applied"  # an annotation: a digest of the desired state that was written last


class NameTaken(Refused):
    """An object with this name exists and is not the owner's. A controller adopts the orphans of an owner only."""


class Contested(Exception):
    """Others change an object again and again. It is set back a few times an hour, and after an edit."""


class OwnedObjects:
    """A cache of the objects that the resources of one kind own, and the writes that keep them as desired.

    `kinds` are pairs of API version and kind. `label` is the label with the owner's name. Pass the events of a watch to
    `observe`; without a watch, `refresh` observes a kind. When an owner is deleted, its owner references delete its
    objects. `immutable` are the kinds whose names stand for their content, so that their metadata is all that is read
    and compared.
    """

    def __init__(
        self,
        api: Api,
        kinds: Sequence[tuple[str, str]],
        *,
        label: str,
        namespace: str | None = None,
        immutable: Collection[str] = (),
    ) -> None:
        self._api = api
        self._immutable = frozenset(immutable)
        self._kinds = kinds
        self._label = label
        self._namespace = namespace
        self._live: InformerCache[_ObjectKey, Object] = InformerCache()
        self._by_owner: dict[Key, set[_ObjectKey]] = {}
        self._put_backs: PutBacks[_ObjectKey] = PutBacks()

    async def refresh(self) -> bool:
        """Lists all kinds. Returns whether it could: a kind whose list the server refuses stays as it was.

        A kind that the server does not have counts as empty.
        """
        self._live.begin_list()
        listed: dict[_ObjectKey, tuple[Version, Object]] = {}
        is_whole = True
        for api_version, kind in self._kinds:
            found_of_kind: dict[_ObjectKey, tuple[Version, Object]] = {}
            try:
                async for found in self._listed(api_version, kind):
                    found_of_kind[_object_key_of(found)] = (Version.of(found), self._compact(found))
            except Refused as refused:
                if refused.status == 404:
                    continue
                is_whole = False
                log.warning("not listed", extra={"kind": kind, "problem": str(refused)})
                cached = ((object_key, found) for object_key, found in self._live.items() if object_key[0] == kind)
                found_of_kind = {object_key: (Version.of(found), found) for object_key, found in cached}
            listed |= found_of_kind
        self._live.replace(listed)
        self._by_owner = {}
        for object_key, found in self._live.items():
            self._by_owner.setdefault(self._owner_of(found), set()).add(object_key)
        return is_whole

    def _listed(self, api_version: str, kind: str) -> AsyncIterator[Object]:
        labels = {self._label: ""}
        if kind in self._immutable:
            return self._api.objects(
                api_version, kind, self._namespace, labels, metadata_only=True, page_size=METADATA_PAGE_SIZE
            )
        return relist(
            self._api,
            api_version,
            kind,
            self._namespace,
            labels,
            cached=lambda found: self._live.get(_object_key_of(found)),
        )

    def observe(self, event: Mapping[str, Any]) -> Key:
        """Takes a watch event. Returns the owner of the object."""
        found = dict(event["object"])
        if event["type"] == "DELETED":
            self._delete(found)
        else:
            self._update(found)
        return self._owner_of(found)

    def forget(self, key: Key) -> None:
        """Drops the entries of a deleted owner."""
        for found in list(self._of(key)):
            self._delete(found)

    def get(self, key: Key, kind: str, name: str) -> Object | None:
        """One of the owner's objects, as last observed."""
        object_key = (kind, key[0], name)
        return self._live.get(object_key) if object_key in self._by_owner.get(key, ()) else None

    def is_current(self, key: Key, wanted: Object) -> bool:
        """Whether the owner's object is as desired, so that `ensure` does not write it."""
        live = self.get(key, *reference_of(wanted))
        if live is None:
            return False
        return _matches(live, self._compared(wanted)) or self.overridden(key, wanted) != []

    def overridden(self, key: Key, wanted: Object) -> list[str]:
        """The fields that an admission webhook changes in each write: another write would change nothing.

        Empty if there are none, or if the object differs in other fields, too.
        """
        live = self.get(key, *reference_of(wanted))
        if live is None or not _is_written(live, wanted):
            return []
        compared = self._compared(wanted)
        if has_stale_fields(live, _marked(compared), FIELD_MANAGER):
            return []
        return overridden_fields(live, compared, FIELD_MANAGER) or []

    def _compared(self, wanted: Object) -> Object:
        """The part of a desired object that is read and compared."""
        if wanted["kind"] in self._immutable:
            return {name: wanted[name] for name in ("apiVersion", "kind", "metadata")}
        return wanted

    async def ensure(self, owner: Object, wanted: Sequence[Object]) -> None:
        """Applies each object that lacks a field or has a stale one.

        Raises NameTaken and the API server's errors, and Contested after it has applied the others.
        """
        key = key_of(owner)
        contested = []
        for found in wanted:
            if self.is_current(key, found):
                continue
            live = self.get(key, *reference_of(found))
            if live is None or self._may_set_back(live, found):
                self._update(await self._ensure(owner, live, found))
            else:
                fields = ", ".join(differing_fields(live, self._compared(found))[:_SHOWN_FIELDS])
                contested.append(f"{found['kind']} {found['metadata']['name']}: {fields or 'fields that it lacked'}")
        if contested:
            what = "; ".join(contested)
            raise Contested(
                f"{what}: set back {MOST} times within an hour, and changed again each time; find who changes it:"
                " `kubectl get --show-managed-fields -o yaml` names managers"
            )

    def unwanted(self, owner: Object, wanted: Sequence[Object]) -> list[Object]:
        """The owner's other objects. The owner reference decides, not the label, because people copy labels."""
        references = {reference_of(found) for found in wanted}
        live = self._of(key_of(owner))
        return [found for found in live if reference_of(found) not in references and _owns(owner, found)]

    async def remove(self, objects: Iterable[Object]) -> None:
        """Deletes these objects. Raises the refusal of one of them after it has deleted the others."""
        problem: Refused | None = None
        for found in objects:
            try:
                await self._api.delete(found)
            except Refused as refused:
                problem = refused
                continue
            self._delete(found)
            log.info("removed", extra=_log_fields(found))
        if problem is not None:
            raise problem

    def _may_set_back(self, live: Object, wanted: Object) -> bool:
        key, digest = _object_key_of(wanted), _digest_of(wanted)
        return self._put_backs.may_write(key, digest, time.monotonic(), is_written=_is_written(live, wanted))

    async def _ensure(self, owner: Object, live: Object | None, wanted: Object) -> Object:
        """Returns the object in its desired state. `live` is the last observed state, which differs."""
        if live is None or not _owns(owner, live):
            metadata = wanted["metadata"]
            live = await self._api.get(wanted["apiVersion"], wanted["kind"], metadata["namespace"], metadata["name"])
            if live is not None and not _owns(owner, live) and not self._is_orphan(owner, live):
                (kind, name), owner_kind = reference_of(wanted), owner["kind"].lower()
                way_out = f"rename the {owner_kind}, or delete the {kind}"
                raise NameTaken(409, f"{kind} {name!r} exists already and is not this {owner_kind}'s; {way_out}")
            if live is not None and _matches(live, wanted):
                return live
        applied = await self._api.apply(
            wanted if wanted["kind"] in self._immutable else _marked(wanted, _digest_of(wanted))
        )
        log.info("applied", extra=_log_fields(wanted))
        return applied

    def _of(self, key: Key) -> Iterator[Object]:
        """The owner's objects, as last observed."""
        for object_key in self._by_owner.get(key, ()):
            found = self._live.get(object_key)
            assert found is not None
            yield found

    def _update(self, found: Object) -> None:
        """Takes an object of a watch event or of the answer to a write, unless it is outdated."""
        object_key = _object_key_of(found)
        before = self._live.get(object_key)
        self._live.update(object_key, Version.of(found), self._compact(found))
        if before is not None:
            self._by_owner[self._owner_of(before)].discard(object_key)
        if (live := self._live.get(object_key)) is not None:
            self._by_owner.setdefault(self._owner_of(live), set()).add(object_key)

    def _delete(self, found: Object) -> None:
        object_key = _object_key_of(found)
        before = self._live.get(object_key)
        self._put_backs.forget(object_key)
        if self._live.delete(object_key, Version.of(found)) and before is not None:
            owner = self._owner_of(before)
            self._by_owner[owner].discard(object_key)
            if not self._by_owner[owner]:
                del self._by_owner[owner]

    def _compact(self, found: Object) -> Object:
        """The part of the object that is compared: without the fields that others applied."""
        is_immutable = found["kind"] in self._immutable
        metadata = dict(found["metadata"])
        if "managedFields" in metadata:
            metadata["managedFields"] = [
                {**entry, "fieldsV1": _fields_text(entry, "f:metadata" if is_immutable else "")}
                for entry in metadata["managedFields"]
                if entry.get("manager") == FIELD_MANAGER
            ]
        rest = {"apiVersion": found["apiVersion"], "kind": found["kind"]} if is_immutable else found
        kept: Object = with_shared_texts({**rest, "metadata": metadata})
        return kept

    def _is_orphan(self, owner: Object, live: Object) -> bool:
        """Whether the object is the owner's, but for its owner reference.

        `kubectl delete --cascade=orphan` and a restore from a backup leave such objects. A reference to an earlier
        owner of the same name does not count.
        """
        metadata = live["metadata"]
        labels = metadata.get("labels") or {}
        controllers = [found for found in metadata.get("ownerReferences") or () if found.get("controller")]
        return (
            labels.get(self._label) == owner["metadata"]["name"]
            and labels.get("app.kubernetes.io/managed-by") == "kubeirq"
            and all((found["kind"], found["name"]) == reference_of(owner) for found in controllers)
        )

    def _owner_of(self, found: Mapping[str, Any]) -> Key:
        return found["metadata"]["namespace"], found["metadata"]["labels"][self._label]


def key_of(found: Mapping[str, Any]) -> Key:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def reference_of(found: Mapping[str, Any]) -> Reference:
    return found["kind"], found["metadata"]["name"]


def _object_key_of(found: Mapping[str, Any]) -> _ObjectKey:
    return found["kind"], *key_of(found)


def _matches(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return contains(live, wanted) and not has_stale_fields(live, _marked(wanted), FIELD_MANAGER)


def _marked(wanted: Mapping[str, Any], digest: str = "") -> Object:
    """The desired object with its mark. The mark causes no write itself, so an upgrade that adds it writes nothing."""
    metadata = wanted["metadata"]
    return {**wanted, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), APPLIED: digest}}}


def _is_written(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the last write of the live object had this desired state."""
    return (live["metadata"].get("annotations") or {}).get(APPLIED) == _digest_of(wanted)


def _digest_of(wanted: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]


def _fields_text(entry: Mapping[str, Any], part: str) -> str:
    """The applied fields as JSON text, or this part of them. As a tree they are the larger half of a cached object."""
    fields = entry.get("fieldsV1", {})
    if isinstance(fields, str):
        return fields
    return sys.intern(json.dumps({part: fields.get(part, {})} if part else fields))


def _owns(owner: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    owners = found["metadata"].get("ownerReferences", [])
    return any(reference.get("uid") == owner["metadata"]["uid"] for reference in owners)


def _log_fields(found: Mapping[str, Any]) -> dict[str, str]:
    return {
        "kind": found["kind"],
        "namespace": found["metadata"]["namespace"],
        "object": found["metadata"]["name"],
    }
