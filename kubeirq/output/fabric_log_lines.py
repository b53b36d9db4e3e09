"""Turns the fabric's log, one JSON object a line, into lines for people. Pure."""

import time
from datetime import datetime
from typing import Any

import orjson

from kubeirq.output.event_display import printable

_HEAD = ("time", "level", "logger", "message", "traceback")


def line_about(text: str | bytes, trigger: str) -> str | None:
    """The readable line if it is about this trigger (namespace/name), else None."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or found.get("trigger") != trigger:
        return None
    return readable(found)


def readable(record: dict[str, Any]) -> str:
    """Time, level, message and data in one line, with the traceback below."""
    data = "  ".join(
        f"{name}={value}" for name, value in record.items() if name not in _HEAD and value not in ("", None)
    )
    line = f"{_clock(record.get('time'))} {record.get('level', ''):7} {record.get('message', '')}  {data}"
    traceback = "".join(f"\n    {printable(part)}" for part in str(record.get("traceback") or "").splitlines())
    return printable(line.rstrip()) + traceback


def _clock(at: Any) -> str:
    try:
        return datetime.fromisoformat(str(at)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return time.strftime("%Y-%m-%d %H:%M:%S")
