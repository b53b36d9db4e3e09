"""Sets up logging for a fabric: everything to its log file, and to a second handler."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from kubeirq.on_machine.log_files import MAX_BYTES, fabric_log
from trigger_sources.observe.logs import JsonLines

FUNCTION_LOGGER = "kubeirq.function"  # the output of functions, which has log files of its own


@contextmanager
def logging_to(state: Path, other: logging.Handler) -> Iterator[None]:
    """Logs to a file of limited size in the state folder, without the output of functions, and to the other handler."""
    file = fabric_log(state)
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(file, maxBytes=MAX_BYTES, backupCount=1)
    handler.setFormatter(JsonLines())
    handler.addFilter(lambda record: record.name != FUNCTION_LOGGER)
    with _handlers(handler, other):
        yield


class _LogFile(RotatingFileHandler):
    """A log file that a full disk does not turn into a traceback for each line."""

    _has_said = False

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what it could not write before, it cannot write now
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_said:
            self._has_said = True
            print(f"kubeirq: {self.baseFilename} cannot be written: {error.strerror}; make room", file=sys.stderr)


@contextmanager
def _handlers(*handlers: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)  # at INFO it logs every heartbeat
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
