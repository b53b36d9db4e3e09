"""The problems of work that is tried until it succeeds, such as writing a dead letter, as a condition shows them."""

from collections.abc import Iterator
from contextlib import contextmanager


class Tries:
    """The tries of one piece of work."""

    __slots__ = ("_problems", "_shown_after", "failures")

    def __init__(self, problems: "dict[Tries, str]", shown_after: int) -> None:
        self.failures = 0
        self._problems = problems
        self._shown_after = shown_after

    def failed(self, problem: str) -> None:
        """A try failed, and another one may follow."""
        self.failures += 1
        if self.failures >= self._shown_after:
            self._problems[self] = problem


class StandingProblems:
    """A problem stands once a piece of work has failed `shown_after` times, and until that piece of work ends."""

    def __init__(self, shown_after: int = 1) -> None:
        self._shown_after = shown_after
        self._problems: dict[Tries, str] = {}

    @property
    def newest(self) -> str:
        """The problem of the piece of work that began to show one last; empty when no problem stands."""
        return next(reversed(self._problems.values()), "")

    @contextmanager
    def work(self) -> Iterator[Tries]:
        """One piece of work. It ends with the context, whether it succeeds, fails for good or is cancelled."""
        tries = Tries(self._problems, self._shown_after)
        try:
            yield tries
        finally:
            self._problems.pop(tries, None)
