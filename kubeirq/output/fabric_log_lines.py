"""Reads the logs of the fabric and of functions, and turns their records into lines for people. Pure."""

import re
import time
from datetime import datetime
from typing import Any

import orjson

from kubeirq.output.event_display import printable

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_HEAD = ("time", "level", "logger", "message", "traceback")


def record_about(text: str | bytes, trigger: str) -> dict[str, Any] | None:
    """The record of the fabric's log if it is about this trigger (namespace/name), else None."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and found.get("trigger") == trigger else None


def printed_record(text: str) -> dict[str, Any]:
    """The record of a line that a function printed. It begins with its time, unless a former version wrote it."""
    time, _, line = text.partition(" ")
    return {"time": time, "line": line} if _TIME.fullmatch(time) else {"line": text}


def line_of(record: dict[str, Any]) -> str:
    """The record as a line; several pods have their names before it."""
    pod = f"{record['pod']}  " if "pod" in record else ""
    if "line" not in record:
        return pod + readable({name: value for name, value in record.items() if name != "pod"})
    return f"{pod}{_clock(record['time'])} {record['line']}" if "time" in record else f"{pod}{record['line']}"


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
