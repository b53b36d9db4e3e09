"""Log records for machines and for people: the constant message with its data."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **data_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class NoticeHandler(logging.Handler):
    """Shows warnings of ours to the person at the terminal; other libraries' chatter stays in the file."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in ("kubeirq", "trigger_sources"):
            details = "  ".join(f"{name}={value}" for name, value in data_of(record).items() if value not in ("", None))
            self._show(f"{record.getMessage()}  {details}".rstrip())


def data_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _OWN}
