"""A cache of the triggers, with their parsed specs and their claims."""

import asyncio
import logging
from collections.abc import Callable, Collection, Hashable, ItemsView, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from controllers.cluster.api import Api, Object, without_managers
from controllers.cluster.differences import contains
from controllers.cluster.informer_cache import InformerCache, Version
from controllers.cluster.installations import installation_in_status
from controllers.cluster.known_fields import (
    UNKNOWN_FIELD,
    UNKNOWN_VALUE,
    WAY_OUT,
    deciding_changes,
    is_from_newer,
    listed_in,
    not_ignorable,
    unknown_field,
    validated,
)
from controllers.cluster.operator import Event
from controllers.triggers.ownership import Key, Ownership, ownership_in_status
from controllers.triggers.status import TriggerStatus
from controllers.triggers.trigger_leases import SingleReplica, TriggerLeases, needs_lease
from trigger_sources.dispatch.filters import compile_filter
from trigger_sources.problems import problem_text
from trigger_sources.registry import source_of
from trigger_sources.source import TriggerSource
from trigger_sources.spec import secret_refs

log = logging.getLogger(__name__)

Place = TypeVar("Place", bound=Hashable)

_CONCURRENT_REQUESTS = 16  # for the state that sources keep in the triggers' status


@dataclass
class CachedTrigger:
    """One trigger, as last observed."""

    object: Object
    spec: TriggerSource | None
    rejection: tuple[str, str] | None  # reason and message, if the trigger cannot run with its present spec
    unknown: tuple[str, ...]  # the fields of the spec that this version does not know, and runs without
    status: TriggerStatus
    raw_spec: Object  # as it was when `spec` was read
    held_back: tuple[str, str] | None = (
        None  # reason and message, if `spec` is the former one: this version lacks a field or value
    )
    written: Object | None = None  # the status that this replica wrote last, until the watch brings it
    written_at: float = float("-inf")  # of the monotonic clock
    applied_at: float = float("-inf")
    applied: int | None = None  # the generation that the flows of this replica have
    waits: tuple[int, float] | None = None  # the generation for which other replicas are waited for, and since when
    body_limit: str = ""  # the problem of a trigger that takes larger bodies than its function
    applying: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def uid(self) -> str:
        uid: str = self.object["metadata"]["uid"]
        return uid

    @property
    def namespace(self) -> str:
        namespace: str = self.object["metadata"]["namespace"]
        return namespace


class TriggerCache:
    """Lives in one event loop.

    Calls `enqueue` with each trigger that may gain or lose a claim, and `forget` with each one that is gone.
    """

    def __init__(
        self,
        api: Api,
        leases: Callable[[], TriggerLeases],
        enqueue: Callable[[Key], None],
        forget: Callable[[Key], None] = lambda _: None,
    ) -> None:
        self.ownership = Ownership()
        self._api = api
        self._leases = leases
        self._enqueue = enqueue
        self._forget = forget
        self._objects: InformerCache[Key, Object] = InformerCache()
        self._request_limit = asyncio.Semaphore(_CONCURRENT_REQUESTS)
        self._by_key: dict[Key, CachedTrigger] = {}
        self._by_uid: dict[str, CachedTrigger] = {}
        self._ignorable: Mapping[str, frozenset[str]] = {}  # by kind: the fields that a spec runs without
        self._selecting: dict[str, set[Key]] = {}  # by namespace: the triggers with a selector of functions
        self._by_secret: dict[tuple[str, str], set[Key]] = {}  # by namespace and name: the triggers that refer to it

    def may_ignore(self, ignorable: Mapping[str, frozenset[str]]) -> None:
        """Takes the fields that each definition lists as ignorable, and reads the specs with unknown fields again."""
        if ignorable == self._ignorable:
            return
        self._ignorable = ignorable
        for key, trigger in list(self._by_key.items()):
            if trigger.unknown or _is_from_newer(trigger.held_back or trigger.rejection):
                self._read(key, trigger)
                self._enqueue(key)

    def get(self, key: Key) -> CachedTrigger | None:
        return self._by_key.get(key)

    def by_uid(self, uid: str) -> CachedTrigger | None:
        return self._by_uid.get(uid)

    def selecting(self, namespace: str) -> Collection[Key]:
        """The triggers of the namespace that select their functions by labels."""
        return self._selecting.get(namespace, ())

    def referring(self, namespace: str, secrets: Iterable[str]) -> set[Key]:
        """The triggers of the namespace that refer to one of these Secrets."""
        return set().union(*(self._by_secret.get((namespace, name), ()) for name in secrets))

    @property
    def namespaces_with_secrets(self) -> set[str]:
        """The namespaces with a trigger that refers to a Secret."""
        return {namespace for namespace, _ in self._by_secret}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_key)

    def items(self) -> ItemsView[Key, CachedTrigger]:
        return self._by_key.items()

    def observe(self, event: Event) -> bool:
        """Takes a watch event. Returns whether the trigger is new or gone, or its spec or installation changed."""
        found = without_managers(event["object"])
        key, version = key_of(found), Version.of(found)
        if event["type"] == "DELETED":
            return self._objects.delete(key, version) and self._delete(key)
        return self._objects.update(key, version, found) and self._update(key, found)

    def begin_list(self) -> None:
        """Call this before you list: events from now on are newer than the list."""
        self._objects.begin_list()

    def replace(self, listed: Iterable[Object]) -> None:
        """Takes the result of the list."""
        found = {key_of(each): (Version.of(each), without_managers(each)) for each in listed}
        for key in self._objects.replace(found):
            present = self._objects.get(key)
            if present is None:
                self._delete(key)
            else:
                self._update(key, present)

    def _update(self, key: Key, found: Object) -> bool:
        """Takes the newest state. Returns whether the trigger is new or its spec changed."""
        cached = self._by_key.get(key)
        if cached is not None and cached.uid == found["metadata"]["uid"]:
            return self._replace(key, cached, found)
        if cached is not None:
            self._delete(key)
        spec, rejection, unknown = spec_of(found, self._ignorable.get(key[0], frozenset()))
        uid = found["metadata"]["uid"]
        status = TriggerStatus(
            self._api,
            found,
            term=lambda: self._leases().term_of(uid),
            fenced=self._is_fenced(spec),
            request_limit=self._request_limit,
        )
        status.observe(found)
        self._by_key[key] = self._by_uid[uid] = CachedTrigger(
            found, spec, rejection, unknown, status, _raw_spec_of(found)
        )
        self._index(key, None, spec)
        self._enqueue_all(self.ownership.update(key, found, spec))
        return True

    def _delete(self, key: Key) -> bool:
        """Removes a trigger. Returns whether it was in the cache."""
        trigger = self._by_key.pop(key, None)
        if trigger is None:
            return False
        self._by_uid.pop(trigger.uid, None)
        self._index(key, trigger.spec, None)
        self._enqueue_all(self.ownership.remove(key))
        self._forget(key)
        return True

    def _replace(self, key: Key, cached: CachedTrigger, found: Object) -> bool:
        same_spec = _desired_state(cached.object) == _desired_state(found)
        same_ownership = ownership_in_status(cached.object) == ownership_in_status(found)
        same_installation = installation_in_status(cached.object) == installation_in_status(found)
        cached.object = found
        cached.status.observe(found)
        if cached.written is not None and contains(found.get("status") or {}, cached.written):
            cached.written = None  # the object says the same, and takes no more memory
        if same_spec:
            if not same_ownership:
                self._enqueue_all(self.ownership.update(key, found, cached.spec))
            return not same_installation
        self._read(key, cached)
        return True

    def _read(self, key: Key, cached: CachedTrigger) -> None:
        """Takes the spec of the object, or goes on with the former one where only a newer version can read it."""
        found = cached.object
        spec, rejection, unknown = spec_of(found, self._ignorable.get(key[0], frozenset()))
        is_held_back = cached.spec is not None and _is_from_newer(rejection)
        model = source_of(key[0])
        if is_held_back and (changed := deciding_changes(model, cached.raw_spec, _raw_spec_of(found))):
            is_held_back, rejection = False, _stopped(rejection, changed)
        if is_held_back:
            cached.held_back = rejection
        else:
            self._index(key, cached.spec, spec)
            cached.spec, cached.rejection, cached.unknown, cached.held_back = spec, rejection, unknown, None
            cached.raw_spec = _raw_spec_of(found)
        cached.status.fenced = self._is_fenced(cached.spec)
        cached.written = None
        self._enqueue_all(self.ownership.update(key, found, cached.spec))

    def _index(self, key: Key, before: TriggerSource | None, after: TriggerSource | None) -> None:
        """Keeps the trigger among those that select functions, and among those that refer to a Secret."""
        namespace = key[1]
        for name in () if before is None else secrets_of(before):
            _discard(self._by_secret, (namespace, name), key)
        for name in () if after is None else secrets_of(after):
            self._by_secret.setdefault((namespace, name), set()).add(key)
        _discard(self._selecting, namespace, key)
        if after is not None and after.target is not None and after.target.selector is not None:
            self._selecting.setdefault(namespace, set()).add(key)

    def _is_fenced(self, spec: TriggerSource | None) -> bool:
        return spec is not None and needs_lease(spec) and not isinstance(self._leases(), SingleReplica)

    def _enqueue_all(self, affected: set[Key]) -> None:
        for key in affected:
            self._enqueue(key)


def _discard(index: dict[Place, set[Key]], place: Place, key: Key) -> None:
    if place in index:
        index[place].discard(key)
        if not index[place]:
            del index[place]


def _raw_spec_of(found: Mapping[str, Any]) -> Object:
    spec: Object = found.get("spec") or {}
    return spec


def _is_from_newer(rejection: tuple[str, str] | None) -> bool:
    return rejection is not None and rejection[0] in (UNKNOWN_FIELD, UNKNOWN_VALUE)


def _stopped(rejection: tuple[str, str] | None, changed: Sequence[str]) -> tuple[str, str]:
    """The rejection of a spec with something unknown that also changes which events are served."""
    assert rejection is not None
    reason, message = rejection
    fields, verb = ", ".join(changed), "changes" if len(changed) == 1 else "change"
    return reason, f"{message}; {fields} {verb} too, so the former spec stops and the trigger does not run"


def _desired_state(trigger: Mapping[str, Any]) -> tuple[Any, ...]:
    metadata = trigger["metadata"]
    return metadata["generation"], "deletionTimestamp" in metadata, listed_in(trigger)


def spec_of(
    trigger: Mapping[str, Any], ignorable: frozenset[str] = frozenset()
) -> tuple[TriggerSource | None, tuple[str, str] | None, tuple[str, ...]]:
    """The spec as its kind's model, or the rejection: reason and message. And the unknown fields that it runs without.

    `ignorable` are the fields that the definition lists.
    """
    model = source_of(trigger["kind"])
    try:
        spec, unknown = validated(model, trigger.get("spec") or {})
        if spec.filter is not None:
            try:
                compile_filter(spec.filter)
            except ValueError as error:
                raise ValueError(f"spec.filter: {error}") from None
    except ValueError as error:
        text = problem_text(error, model)
        if is_from_newer(error):
            return None, (UNKNOWN_VALUE, f"{text}; {WAY_OUT}"), ()
        return None, ("Invalid", text), ()
    except Exception as error:  # a fault in the model of one kind must not stop the other triggers
        log.exception("spec not read", extra={"trigger": trigger["metadata"]["uid"]})
        return None, ("Invalid", f"spec: it cannot be read: {type(error).__name__}: {error}"), ()
    if restricting := not_ignorable(unknown, ignorable | listed_in(trigger)):
        return None, unknown_field(restricting), ()
    return spec, None, unknown


def secrets_of(spec: TriggerSource) -> list[str]:
    """The names of the Secrets that the spec refers to."""
    return sorted({reference.name for _, reference in secret_refs(spec)})


def key_of(found: Mapping[str, Any]) -> Key:
    return found["kind"], found["metadata"]["namespace"], found["metadata"]["name"]
