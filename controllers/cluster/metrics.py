"""Metrics of a controller: its requests to the API server, its watches, its queues and its Leases.

They are those of the process, since a process runs one controller.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from trigger_sources.dispatch.counters import cumulative
from trigger_sources.observe.metrics import Metric, Sample

BOUNDS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_Labels = tuple[tuple[str, str], ...]


class Durations:
    """A histogram of durations in seconds."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._counts: dict[_Labels, list[int]] = {}  # by bucket; the last is for everything above
        self._seconds: dict[_Labels, float] = {}

    def add(self, seconds: float, **labels: str) -> None:
        key = tuple(labels.items())
        counts = self._counts.setdefault(key, [0] * (len(BOUNDS_SECONDS) + 1))
        counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    @contextmanager
    def measured(self, **labels: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(time.monotonic() - began, **labels)

    def metric(self) -> Metric:
        samples = [sample for key, counts in list(self._counts.items()) for sample in self._samples(key, counts)]
        return Metric(self._name, "histogram", self._text, samples)

    def _samples(self, key: _Labels, counts: list[int]) -> Iterator[Sample]:
        labels = dict(key)
        for bound, count in cumulative(BOUNDS_SECONDS, counts):
            yield Sample("_bucket", {**labels, "le": bound}, count)
        yield Sample("_sum", labels, self._seconds[key])
        yield Sample("_count", labels, sum(counts))


class Count:
    """A counter."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._counts: Counter[_Labels] = Counter()

    def add(self, **labels: str) -> None:
        self._counts[tuple(labels.items())] += 1

    def metric(self) -> Metric:
        samples = [Sample("", dict(key), count) for key, count in list(self._counts.items())]
        return Metric(self._name, "counter", self._text, samples)


class Gauge:
    """Values that are read when someone asks. `read` returns each value by its label."""

    def __init__(self, name: str, text: str, label: str) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._values: dict[str, Callable[[], float]] = {}

    def read(self, label: str, value: Callable[[], float]) -> None:
        """Reads the value for this label with `value` from now on."""
        self._values[label] = value

    def metric(self) -> Metric:
        samples = [Sample("", {self._label: label}, value()) for label, value in list(self._values.items())]
        return Metric(self._name, "gauge", self._text, samples)


API_SECONDS = Durations("kubeirq_api_request_seconds", "Time until the API server's answer, without watches")
API_ERRORS = Count("kubeirq_api_errors_total", "Requests that the API server refused or did not answer")
WATCH_REQUESTS = Count("kubeirq_watch_requests_total", "Watches that were begun, also those that had ended")
WATCH_EVENTS = Count("kubeirq_watch_events_total", "Objects that watches brought, also those of the first list")
QUEUE_DEPTH = Gauge("kubeirq_queue_depth", "Objects that wait to be reconciled", "queue")
RECONCILE_SECONDS = Durations("kubeirq_reconcile_seconds", "Time to reconcile one object")
RECONCILE_ERRORS = Count("kubeirq_reconcile_errors_total", "Reconciles that failed and are repeated")
LEASES_HELD = Gauge(
    "kubeirq_leases_held", "Leases that this replica holds; of the Lease kubeirq-functions, 1 on the leader", "leases"
)

OTHER_REPLICAS = Gauge(
    "kubeirq_other_replicas", "Other replicas of this trigger controller, by whether they say what they serve", "state"
)

_ALL = (
    API_SECONDS,
    API_ERRORS,
    WATCH_REQUESTS,
    WATCH_EVENTS,
    QUEUE_DEPTH,
    RECONCILE_SECONDS,
    RECONCILE_ERRORS,
    LEASES_HELD,
    OTHER_REPLICAS,
)


def controller_metrics() -> Iterator[Metric]:
    return (found.metric() for found in _ALL)


def resource_of(path: str) -> str:
    """The resource in a URL path of the API server: deployments in /apis/apps/v1/namespaces/shop/deployments/pay."""
    parts = path.strip("/").split("/")
    inside = parts[2:] if parts[0] == "api" else parts[3:]
    if inside[:1] == ["namespaces"] and len(inside) > 2:
        inside = inside[2:]
    return inside[0] if inside else ""


def labels_of(method: str, path: str) -> Mapping[str, str]:
    return {"method": method, "resource": resource_of(path)}
