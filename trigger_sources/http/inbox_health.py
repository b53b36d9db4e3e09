"""Whether a trigger's inbox keeps new events and gives the kept ones: two facts behind one condition."""

import logging
import time
from collections.abc import Callable
from typing import Literal

from trigger_sources.context import Context, SourceError

log = logging.getLogger(__name__)

Step = Literal["keep", "take"]

STEADY_SECONDS = 10.0  # without a refusal, before events count as kept again: a full backlog takes some at times


class InboxHealth:
    """Reports the source as connected while both steps work, and else the problem of one of them."""

    def __init__(self, context: Context, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._problems: dict[Step, SourceError] = {}
        self._refused_at = 0.0
        self.largest = 0  # bytes of the largest record of the newest batch

    def fails(self, step: Step) -> bool:
        return step in self._problems

    def failed(self, step: Step, problem: Exception) -> None:
        """A step raised. A problem that is no SourceError is a fault, of which the log has the traceback."""
        if not isinstance(problem, SourceError):
            log.error("inbox fails", exc_info=problem, extra={"trigger": self._context.name, "step": step})
            problem = SourceError("InboxFails", f"{type(problem).__name__}: {problem}")
        if step == "keep":
            self._refused_at = self._clock()
        self._problems[step] = problem
        self._report()

    def worked(self, step: Step) -> None:
        if step not in self._problems or (step == "keep" and self._clock() - self._refused_at < STEADY_SECONDS):
            return
        del self._problems[step]
        self._report()

    def _report(self) -> None:
        problem = next(iter(self._problems.values()), None)
        if problem is None:
            self._context.report(connected=True)
        else:
            self._context.report(connected=False, reason=problem.reason, message=str(problem))
