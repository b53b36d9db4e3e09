"""Readings and other metrics in the text format that Prometheus scrapes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trigger_sources.dispatch.counters import Reading


@dataclass(frozen=True)
class Sample:
    """One value of a metric. `suffix` is the part of its name that follows the metric's."""

    suffix: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Metric:
    """A metric with all its values."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    samples: Sequence[Sample]

    @classmethod
    def single(
        cls, name: str, kind: Literal["counter", "gauge"], text: str, value: float, labels: Mapping[str, str] = {}
    ) -> "Metric":
        return cls(name, kind, text, [Sample("", labels, value)])


_COUNTERS: Sequence[tuple[str, str, str]] = (
    ("received", "kubeirq_events_received_total", "Events taken from the source"),
    ("delivered", "kubeirq_events_delivered_total", "Events that the function answered with 2xx"),
    ("filtered", "kubeirq_events_filtered_total", "Events that the filter did not let through"),
    ("deadLettered", "kubeirq_events_dead_lettered_total", "Events kept as dead letters"),
    ("dropped", "kubeirq_events_dropped_total", "Events given up by policy, or whose caller got the failure as answer"),
    ("returned", "kubeirq_events_returned_total", "Events given back to the source unsettled"),
    ("withdrawn", "kubeirq_events_withdrawn_total", "Events that another replica has now"),
    ("refused", "kubeirq_requests_refused_total", "Requests answered 503 since their events could not be taken"),
    ("redelivered", "kubeirq_events_redelivered_total", "Times the source handed out an event that was held already"),
    ("attempts", "kubeirq_attempts_total", "Calls of the function that got an answer or should have"),
    ("retried", "kubeirq_retries_total", "Attempts that are followed by another"),
    ("filter_errors", "kubeirq_filter_errors_total", "Events whose filter could not be evaluated"),
    ("filter_seconds", "kubeirq_filter_seconds_total", "Time of the event loop that the filter took"),
    ("reply_failures", "kubeirq_reply_failures_total", "Times a reply could not be published"),
    ("lost", "kubeirq_source_lost_total", "Events that the source itself lost before they could be taken"),
    ("restarts", "kubeirq_source_restarts_total", "Times the source was restarted"),
)

_GAUGES: Sequence[tuple[str, str, Callable[[Reading], float | None]]] = (
    ("kubeirq_held_events", "Events taken and not settled", lambda r: r.held),
    ("kubeirq_held_bytes", "Memory of the events taken and not settled", lambda r: r.held_bytes),
    ("kubeirq_waits_for_memory", "Whether no event is taken since memory is used up", lambda r: r.waits_for_memory),
    ("kubeirq_source_connected", "Whether the source is connected", lambda r: r.connected),
    ("kubeirq_delivering", "Whether events flow, or would if there were any", lambda r: r.delivering),
    ("kubeirq_oldest_held_seconds", "Age of the oldest held event", lambda r: r.oldest_seconds),
    ("kubeirq_dead_letters", "Dead letters that wait for someone", lambda r: r.dead_letters),
    ("kubeirq_lag_events", "Events at the source that are not settled", lambda r: r.lag_events),
    ("kubeirq_lag_seconds", "Age of the oldest event at the source that is not settled", lambda r: r.lag_seconds),
    ("kubeirq_uncommitted_events", "Settled events that a crash would repeat, at most", lambda r: r.uncommitted),
)


def exposition(readings: Iterable[Reading], metrics: Iterable[Metric] = ()) -> str:
    """All readings and metrics in Prometheus' text format, each metric once."""
    readings = list(readings)
    lines: list[str] = []
    for attribute, name, text in _COUNTERS:
        lines += _head(name, "counter", text)
        lines += [f"{name}{_labels(r.labels)} {getattr(r.counters, attribute)}" for r in readings]
    name = "kubeirq_attempt_seconds"
    lines += _head(name, "histogram", "How long calls of the function took")
    for r in readings:
        for bound, count in r.counters.histogram():
            lines.append(f"{name}_bucket{_labels({**r.labels, 'le': bound})} {count}")
        lines.append(f"{name}_sum{_labels(r.labels)} {r.counters.latency_seconds}")
        lines.append(f"{name}_count{_labels(r.labels)} {r.counters.attempts}")
    for name, text, value_of in _GAUGES:
        lines += _head(name, "gauge", text)
        for r in readings:
            value = value_of(r)
            if value is not None:
                lines.append(f"{name}{_labels(r.labels)} {float(value):g}")
    name = "kubeirq_source_reason"
    lines += _head(name, "gauge", "The reason of the condition Connected: always 1")
    lines += [f"{name}{_labels({**r.labels, 'reason': r.reason})} 1" for r in readings if r.reason]
    name = "kubeirq_held_events_by_state"
    lines += _head(name, "gauge", "Events taken and not settled, by their state")
    for r in readings:
        lines += [f"{name}{_labels({**r.labels, 'state': state})} {count}" for state, count in r.states.items()]
    for metric in metrics:
        lines += _head(metric.name, metric.kind, metric.text)
        lines += [f"{metric.name}{s.suffix}{_labels(s.labels)} {_number(s.value)}" for s in metric.samples]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
