"""The main fields of a trigger's spec in lines for people. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

_SOURCE_FIELDS = {
    "KafkaTrigger": ("topics", "topicPattern", "group", "start"),
    "NATSTrigger": ("subject", "mode", "stream", "durable", "queue", "start"),
}
_DELIVERY_FIELDS = ("attempts", "maxAgeSeconds", "onFailure", "holdAfter")
_MOST_CHARACTERS = 500  # of one value


def spec_lines(kind: str, spec: Mapping[str, Any], next_runs: Sequence[str] = ()) -> list[str]:
    """Lines about the source, the filter and the calls. `next_runs` are times in RFC 3339."""
    return [f"  {label:10} {_bounded(value)}" for label, value in _fields(kind, spec, next_runs) if value]


def _fields(kind: str, spec: Mapping[str, Any], next_runs: Sequence[str]) -> Iterator[tuple[str, str]]:
    if kind == "HTTPTrigger":
        host = f" on host {spec['host']}" if spec.get("host") else ""
        yield "route", f"{', '.join(spec.get('methods', []))} {spec.get('path', '')}{host}".strip()
    elif kind == "CronTrigger":
        zone = spec.get("timeZone") or "UTC"
        yield "schedule", f"{spec['schedule']} in {zone}" if spec.get("schedule") else f"at {spec.get('at')}"
        yield "next runs", "; ".join(_run(text, zone) for text in next_runs)
    else:
        yield "takes", _listed(spec, _SOURCE_FIELDS.get(kind, ()))
    yield "filter", str(spec.get("filter") or "")
    yield "calls with", _listed(spec, ("concurrency", "ordering"))
    yield "on failure", _listed(spec.get("delivery") or {}, _DELIVERY_FIELDS)


def _run(text: str, zone: str) -> str:
    """`Sat 28 Nov 06:00 America/New_York (11:00 UTC)`."""
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
        local = moment.astimezone(ZoneInfo(zone))
    except (ValueError, KeyError):  # this machine does not know the zone
        return text
    if zone == "UTC":
        return f"{local:%a %d %b %H:%M} UTC"
    day = "" if local.date() == moment.date() else f"{moment:%a} "
    return f"{local:%a %d %b %H:%M} {zone} ({day}{moment:%H:%M} UTC)"


def _listed(values: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {_text(values[name])}" for name in names if values.get(name) not in (None, "", []))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={found}" for name, found in value.items())
    return str(value)


def _bounded(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"
