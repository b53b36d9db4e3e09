"""Sets up logging for a fabric: everything to its log file, and to a second handler."""

import logging
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
    handler = RotatingFileHandler(file, maxBytes=MAX_BYTES, backupCount=1)
    handler.setFormatter(JsonLines())
    handler.addFilter(lambda record: record.name != FUNCTION_LOGGER)
    with _handlers(handler, other):
        yield


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
