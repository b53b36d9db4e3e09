"""Paces the rollouts that no author asked for: after an upgrade or a change of the images, every Deployment differs.

A rollout starts pods beside the old ones, and these install their dependencies. All at once they would need twice the
room in the cluster. And new pods that do not start hold up the rollouts behind them. Pure.
"""

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

LEAST_AT_ONCE = 5
SHARE_AT_ONCE = 0.05  # of all Functions
MOST_SECONDS = 600.0  # a rollout that takes longer makes room for another


class Rollouts(Generic[Key]):
    """The rollouts that run and those that wait. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._running: dict[Key, float] = {}  # with the time of the start
        self._waiting: dict[Key, None] = {}  # first in, first out

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def may_start(self, key: Key, functions: int, now: float) -> bool:
        """Whether this rollout runs or starts now. Otherwise it waits until `due` returns it."""
        self._expire(now)
        if key not in self._running:
            if self._room(functions) <= 0:
                self._waiting.setdefault(key)
                return False
            self._running[key] = now
        self._waiting.pop(key, None)
        return True

    def ended(self, key: Key) -> None:
        """The rollout has ended, or is none of these any more."""
        self._running.pop(key, None)
        self._waiting.pop(key, None)

    def due(self, functions: int, now: float) -> list[Key]:
        """The rollouts for which there is room now."""
        self._expire(now)
        return list(self._waiting)[: max(0, self._room(functions))]

    def _room(self, functions: int) -> int:
        return max(LEAST_AT_ONCE, math.ceil(functions * SHARE_AT_ONCE)) - len(self._running)

    def _expire(self, now: float) -> None:
        self._running = {key: began for key, began in self._running.items() if now - began < MOST_SECONDS}
