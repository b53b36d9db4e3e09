"""Shows the fabric's own warnings to the person at the terminal."""

import logging
from collections.abc import Callable

from kubeirq.output.failure_log import FAILURES_LOGGER
from trigger_sources.observe.logs import data_of

# These stand for a while: the live view says so, and also when they are over
_STATES = frozenset(
    {
        "function is failing", "function is down", "function down", "source not connected", "source failed",
        "everything fails: the trigger holds", "the filter fails on every event: the trigger holds",
    }
)  # fmt: skip


class TerminalWarnings(logging.Handler):
    """Shows warnings of kubeirq. Those of other libraries go to the log file only.

    The live view shows failures of events, and the states of functions and triggers.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() in _STATES:
            return
        if record.name != FAILURES_LOGGER and record.name.partition(".")[0] in ("kubeirq", "trigger_sources"):
            data = data_of(record)
            if record.exc_info and (error := record.exc_info[1]) is not None:
                data = {**data, "error": f"{type(error).__name__}: {error}"}  # its traceback is in the log file
            details = "  ".join(f"{name}={value}" for name, value in data.items() if value not in ("", None))
            self._show(f"{record.getMessage()}  {details}".rstrip())
