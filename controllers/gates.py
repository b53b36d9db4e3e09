"""The ways to the functions of a cluster: one gate for each, closed while nothing serves it."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from controllers.workload_status import url_of
from trigger_sources.gate import Gate

Key = tuple[str, str]  # namespace, name

_SERVICE_LABEL = "kubernetes.io/service-name"


class Gates:
    """What is known of Functions and of the endpoints of their Services. Lives in one event loop."""

    def __init__(self) -> None:
        self._gates: dict[Key, Gate] = {}
        self._functions: dict[Key, Mapping[str, str]] = {}  # labels
        self._ready: dict[Key, dict[str, int]] = {}  # endpoints that are ready, by Service, then by slice
        self._known = False  # before the first listing nothing is taken for absent

    def of(self, namespace: str, name: str) -> Gate:
        """The way to that function, also while there is none: its events wait."""
        key = (namespace, name)
        if key not in self._gates:
            self._gates[key] = Gate(name, f"{url_of(*key)}/")
            self._judge(key)
        return self._gates[key]

    def functions(self, namespace: str) -> list[tuple[str, Mapping[str, str]]]:
        """Name and labels of each Function of the namespace."""
        return [(name, labels) for (found, name), labels in self._functions.items() if found == namespace]

    def listed(self, functions: Iterable[Mapping[str, Any]], slices: Iterable[Mapping[str, Any]]) -> None:
        """All there are just now."""
        self._functions = {_key_of(found): _labels_of(found) for found in functions}
        self._ready = {}
        for found in slices:
            self._note(found)
        self._known = True
        for key in self._gates:
            self._judge(key)

    def function_seen(self, function: Mapping[str, Any], *, gone: bool = False) -> bool:
        """Whether that changes which functions there are, or their labels."""
        key = _key_of(function)
        labels = None if gone else _labels_of(function)
        if self._functions.get(key) == labels:
            return False
        if labels is None:
            del self._functions[key]
        else:
            self._functions[key] = labels
        self._judge(key)
        return True

    def slice_seen(self, found: Mapping[str, Any], *, gone: bool = False) -> None:
        """An EndpointSlice is there, or has gone."""
        key = self._note(found, gone=gone)
        if key is not None:
            self._judge(key)

    async def aclose(self) -> None:
        await asyncio.gather(*(gate.aclose() for gate in self._gates.values()))

    def _note(self, found: Mapping[str, Any], *, gone: bool = False) -> Key | None:
        metadata = found["metadata"]
        service = metadata.get("labels", {}).get(_SERVICE_LABEL)
        if service is None:
            return None
        key = (metadata["namespace"], service)
        slices = self._ready.setdefault(key, {})
        if gone:
            slices.pop(metadata["name"], None)
        else:
            slices[metadata["name"]] = ready_endpoints(found)
        if not slices:
            del self._ready[key]
        return key

    def _judge(self, key: Key) -> None:
        gate = self._gates.get(key)
        if gate is None or not self._known:
            return
        if key not in self._functions:
            gate.close(f"there is no Function {key[1]!r} in namespace {key[0]!r}")
        elif not any(self._ready.get(key, {}).values()):
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
