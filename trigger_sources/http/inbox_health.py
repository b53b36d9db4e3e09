"""Whether a trigger's inbox keeps new events and gives the kept ones: two facts behind one condition."""

from typing import Literal

from trigger_sources.context import Context, SourceError

Step = Literal["keep", "take"]


class InboxHealth:
    """Reports the source as connected while both steps work, and else the problem of one of them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._problems: dict[Step, SourceError] = {}

    def fails(self, step: Step) -> bool:
        return step in self._problems

    def failed(self, step: Step, problem: SourceError) -> None:
        self._problems[step] = problem
        self._report()

    def worked(self, step: Step) -> None:
        if self._problems.pop(step, None) is not None:
            self._report()

    def _report(self) -> None:
        problem = next(iter(self._problems.values()), None)
        if problem is None:
            self._context.report(connected=True)
        else:
            self._context.report(connected=False, reason=problem.reason, message=str(problem))
