"""The gates of a cluster's functions. A gate is open while the function's Service has a ready endpoint."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from controllers.cluster.informer_cache import InformerCache, Version
from controllers.functions.status import url_of
from controllers.functions.worker_ends import WorkerEnd
from controllers.triggers.worker_ends import WorkerEnds
from trigger_sources.dispatch.gate import Gate
from trigger_sources.transport.egress_policy import Reach
from trigger_sources.transport.resolver import resolver

Key = tuple[str, str]  # namespace, name

_SERVICE_LABEL = "kubernetes.io/service-name"


Edition = tuple[str, int]  # the uid and the generation of a Function: its spec changes only with them


@dataclass(frozen=True, slots=True)
class _Known:
    labels: Mapping[str, str]
    edition: Edition

    @classmethod
    def of(cls, function: Mapping[str, Any]) -> "_Known":
        metadata = function["metadata"]
        return cls(dict(metadata.get("labels") or {}), (metadata["uid"], metadata.get("generation", 0)))


@dataclass(frozen=True, slots=True)
class _Slice:
    service: Key
    ready: int  # endpoints that take requests
    all: int  # endpoints, with those that start and those that end

    @classmethod
    def of(cls, service: Key, found: Mapping[str, Any]) -> "_Slice":
        return cls(service, ready_endpoints(found), len(found.get("endpoints") or ()))


class Gates:
    """The gates, and caches of the Functions and EndpointSlices that decide about them. Lives in one event loop."""

    def __init__(self, egress_policy: Reach | None = None) -> None:
        self._egress_policy = egress_policy
        self.on_worker_end: Callable[[Key, WorkerEnd], None] = lambda key, end: None  # a crash ended calls
        self._gates: dict[Key, Gate] = {}
        self._worker_ends: dict[Key, WorkerEnds] = {}
        self._functions: InformerCache[Key, _Known] = InformerCache()
        self._names: dict[str, dict[str, None]] = {}  # of the Functions of each namespace
        self._slices: InformerCache[Key, _Slice] = InformerCache()
        self._serving: dict[Key, set[Key]] = {}  # by Service: the slices with a ready endpoint
        self._inhabited: dict[Key, set[Key]] = {}  # by Service: the slices with an endpoint
        self._has_listed = False  # before the first list, a missing object may exist

    def of(self, namespace: str, name: str) -> Gate:
        """The gate of a function. A Function that does not exist has a closed gate: its events wait."""
        key = (namespace, name)
        if key not in self._gates:
            gate = Gate(
                name,
                f"{url_of(*key)}/",
                resolve=resolver(self._egress_policy, namespace),
                serves=partial(self._serving.__contains__, key),
            )
            ends = self._worker_ends[key] = WorkerEnds(
                gate, partial(self._worker_ended, key), has_one_replica=partial(self.has_one_replica, key)
            )
            gate.why_lost = ends.why_lost
            self._gates[key] = gate
            self._update(key)
        return self._gates[key]

    def functions(self, namespace: str) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Name and labels of each Function of the namespace, for selectors."""
        for name in self._names.get(namespace, ()):
            if (known := self._functions.get((namespace, name))) is not None:
                yield name, known.labels

    def edition(self, namespace: str, name: str) -> Edition | None:
        """The edition of a Function; None if there is none."""
        known = self._functions.get((namespace, name))
        return None if known is None else known.edition

    def begin_list(self) -> None:
        """Call this before you list: events from now on are newer than the list."""
        self._functions.begin_list()
        self._slices.begin_list()

    def replace(self, functions: Iterable[Mapping[str, Any]], slices: Iterable[Mapping[str, Any]]) -> None:
        """Takes the results of the lists."""
        self._functions.replace({_key_of(found): (Version.of(found), _Known.of(found)) for found in functions})
        self._slices.replace(
            {
                _key_of(found): (Version.of(found), _Slice.of(service, found))
                for found in slices
                if (service := _service_of(found)) is not None
            }
        )
        self._names.clear()
        for namespace, name in self._functions:
            self._names.setdefault(namespace, {})[name] = None
        self._serving.clear()
        self._inhabited.clear()
        for key, known in self._slices.items():
            _keep(self._serving, known.service, key, known.ready)
            _keep(self._inhabited, known.service, key, known.all)
        self._has_listed = True
        for key in self._gates:
            self._update(key)

    def observe_function(self, function: Mapping[str, Any], *, deleted: bool = False) -> bool:
        """Takes a Function of a watch event. Returns whether its existence or its labels changed."""
        key, version = _key_of(function), Version.of(function)
        before = self._functions.get(key)
        if deleted:
            self._functions.delete(key, version)
        else:
            self._functions.update(key, version, _Known.of(function))
        after = self._functions.get(key)
        if after is not None:
            self._names.setdefault(key[0], {})[key[1]] = None
        elif before is not None:
            del self._names[key[0]][key[1]]
        changed = (before and before.labels) != (after and after.labels)
        if changed:
            self._update(key)
        return changed

    def observe_slice(self, found: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Takes an EndpointSlice of a watch event."""
        service = _service_of(found)
        if service is None:
            return
        key, version = _key_of(found), Version.of(found)
        if deleted:
            self._slices.delete(key, version)
        else:
            self._slices.update(key, version, _Slice.of(service, found))
        cached = self._slices.get(key)
        _keep(self._serving, service, key, 0 if cached is None else cached.ready)
        _keep(self._inhabited, service, key, 0 if cached is None else cached.all)
        self._update(service)

    async def retain(self, used: Collection[Key]) -> None:
        """Removes all gates but these."""
        unused = self._gates.keys() - set(used)
        # At once: a flow that starts meanwhile must find a new gate, and not one that closes
        removed = [(self._worker_ends.pop(key), self._gates.pop(key)) for key in unused]
        await asyncio.gather(*(ends.aclose() for ends, _ in removed))
        await asyncio.gather(*(gate.aclose() for _, gate in removed))

    async def aclose(self) -> None:
        await self.retain(())

    def _worker_ended(self, key: Key, end: WorkerEnd) -> None:
        self.on_worker_end(key, end)

    def has_one_replica(self, key: Key) -> bool:
        """Whether the Service has one endpoint, ready or not."""
        slices = (self._slices.get(found) for found in self._inhabited.get(key, ()))
        return sum(found.all for found in slices if found is not None) == 1

    def _update(self, key: Key) -> None:
        gate = self._gates.get(key)
        if gate is None or not self._has_listed:
            return
        if key not in self._functions:
            gate.close(f"there is no Function {key[1]!r} in namespace {key[0]!r}")
        elif key not in self._serving:
            gate.close("no replica is ready", probe=True)  # the watch may lag behind, or be forbidden
        else:
            gate.open()


def ready_endpoints(found: Mapping[str, Any]) -> int:
    """The number of endpoints that take requests. A missing condition counts as ready, as Kubernetes defines it."""
    conditions = (endpoint.get("conditions", {}) for endpoint in found.get("endpoints") or ())
    return sum(1 for condition in conditions if condition.get("ready") is not False)


def _keep(slices: dict[Key, set[Key]], service: Key, key: Key, count: int) -> None:
    """Keeps the slice among those of the Service, if it has such endpoints."""
    if count:
        slices.setdefault(service, set()).add(key)
    elif service in slices:
        slices[service].discard(key)
        if not slices[service]:
            del slices[service]


def _key_of(found: Mapping[str, Any]) -> Key:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def _service_of(found: Mapping[str, Any]) -> Key | None:
    name = found["metadata"].get("labels", {}).get(_SERVICE_LABEL)
    return None if name is None else (found["metadata"]["namespace"], name)
