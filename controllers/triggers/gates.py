"""The ways to the functions of a cluster: one gate for each, closed while nothing serves it."""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from controllers.cluster.informer_cache import InformerCache
from controllers.functions.status import url_of
from trigger_sources.dispatch.gate import Gate
from trigger_sources.transport.egress_policy import Reach
from trigger_sources.transport.resolver import resolver

Key = tuple[str, str]  # namespace, name

_SERVICE_LABEL = "kubernetes.io/service-name"


class Gates:
    """What is known of Functions and of the endpoints of their Services. Lives in one event loop."""

    def __init__(self, reach: Reach | None = None) -> None:
        self._reach = reach
        self._gates: dict[Key, Gate] = {}
        self._functions: InformerCache[Key, Mapping[str, str]] = InformerCache()  # labels
        self._slices: InformerCache[Key, tuple[Key, int]] = (
            InformerCache()
        )  # the Service, and how many endpoints are ready
        self._serving: dict[Key, set[Key]] = {}  # by Service: the slices that have endpoints which are ready
        self._is_known = False  # before the first listing nothing is taken for absent

    def of(self, namespace: str, name: str) -> Gate:
        """The way to that function, also while there is none: its events wait."""
        key = (namespace, name)
        if key not in self._gates:
            self._gates[key] = Gate(name, f"{url_of(*key)}/", resolve=resolver(self._reach, namespace))
            self._judge(key)
        return self._gates[key]

    def functions(self, namespace: str) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Name and labels of each Function of the namespace: only a selector looks at them."""
        return ((name, labels) for (found, name), labels in self._functions.items() if found == namespace)

    def listing(self) -> None:
        """A listing begins: what is seen from now on is newer."""
        self._functions.begin_list()
        self._slices.begin_list()

    def listed(self, functions: Iterable[Mapping[str, Any]], slices: Iterable[Mapping[str, Any]]) -> None:
        """All there were when they were asked for."""
        self._functions.replace({_key_of(found): (_uid_of(found), _labels_of(found)) for found in functions})
        self._slices.replace(
            {
                _key_of(found): (_uid_of(found), (service, ready_endpoints(found)))
                for found in slices
                if (service := _service_of(found)) is not None
            }
        )
        self._serving.clear()
        for key, (service, ready) in self._slices.items():
            if ready:
                self._serving.setdefault(service, set()).add(key)
        self._is_known = True
        for key in self._gates:
            self._judge(key)

    def function_seen(self, function: Mapping[str, Any], *, gone: bool = False) -> bool:
        """Whether that changes which functions there are, or their labels."""
        key, uid = _key_of(function), _uid_of(function)
        changed = self._functions.delete(key, uid) if gone else self._functions.update(key, uid, _labels_of(function))
        if changed:
            self._judge(key)
        return changed

    def slice_seen(self, found: Mapping[str, Any], *, gone: bool = False) -> None:
        """An EndpointSlice is there, or has gone."""
        service = _service_of(found)
        if service is None:
            return
        key, uid = _key_of(found), _uid_of(found)
        if gone:
            self._slices.delete(key, uid)
        else:
            self._slices.update(key, uid, (service, ready_endpoints(found)))
        serving = self._serving.setdefault(service, set())
        known = self._slices.get(key)
        if known is not None and known[1]:
            serving.add(key)
        else:
            serving.discard(key)
        if not serving:
            del self._serving[service]
        self._judge(service)

    async def keep(self, used: Collection[Key]) -> None:
        """Ends the ways that nobody uses any more."""
        unused = [self._gates.pop(key) for key in self._gates.keys() - set(used)]
        await asyncio.gather(*(gate.aclose() for gate in unused))

    async def aclose(self) -> None:
        await self.keep(())

    def _judge(self, key: Key) -> None:
        gate = self._gates.get(key)
        if gate is None or not self._is_known:
            return
        if key not in self._functions:
            gate.close(f"there is no Function {key[1]!r} in namespace {key[0]!r}")
        elif key not in self._serving:
            gate.close("no replica is ready", probe=True)  # a watch may be behind, or forbidden
        else:
            gate.open()


def ready_endpoints(found: Mapping[str, Any]) -> int:
    """How many endpoints of a slice take requests: a condition that is not told counts as true, as Kubernetes says."""
    conditions = (endpoint.get("conditions", {}) for endpoint in found.get("endpoints") or ())
    return sum(1 for condition in conditions if condition.get("ready") is not False)


def _key_of(found: Mapping[str, Any]) -> Key:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def _labels_of(found: Mapping[str, Any]) -> Mapping[str, str]:
    return dict(found["metadata"].get("labels") or {})


def _uid_of(found: Mapping[str, Any]) -> str:
    uid: str = found["metadata"]["uid"]
    return uid


def _service_of(found: Mapping[str, Any]) -> Key | None:
    name = found["metadata"].get("labels", {}).get(_SERVICE_LABEL)
    return None if name is None else (found["metadata"]["namespace"], name)
