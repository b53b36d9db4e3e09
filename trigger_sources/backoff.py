"""Waiting times between tries that fail: each is twice the one before, up to a bound. Pure."""


class Backoff:
    """`next` returns the seconds to wait after a failure; `reset` starts over after a success."""

    __slots__ = ("_first", "_longest", "seconds")

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first = first_seconds
        self._longest = longest_seconds
        self.seconds = first_seconds  # that `next` will return

    def next(self) -> float:
        seconds, self.seconds = self.seconds, min(self._longest, self.seconds * 2)
        return seconds

    def reset(self) -> None:
        self.seconds = self._first
