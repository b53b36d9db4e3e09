"""Log lines of the fabric (JSON, one object each) as people read them. Pure."""

import time
from datetime import datetime
from typing import Any

import orjson

from kubeirq.output.display import printable

_HEAD = ("time", "level", "logger", "message", "traceback")


def line_about(text: str | bytes, trigger: str) -> str | None:
    """The line, if it is about this trigger (namespace/name); None for any other."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or found.get("trigger") != trigger:
        return None
    return readable(found)


def readable(record: dict[str, Any]) -> str:
    """When, how grave, what, and its data; a traceback below."""
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
