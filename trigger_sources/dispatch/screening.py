"""Decides about each event before its first call whether it is called at all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trigger_sources.delivery import Delivery
from trigger_sources.dispatch.counters import Counters
from trigger_sources.dispatch.filter_error import FilterError
from trigger_sources.dispatch.held import Held
from trigger_sources.dispatch.hold import FailureHold
from trigger_sources.source import TriggerSource

if TYPE_CHECKING:
    from trigger_sources.dispatch.filter_streak import FilterStreak
    from trigger_sources.dispatch.filter_types import TypeWatch


@dataclass(frozen=True, slots=True)
class Uncalled:
    """The end of an event that is not called. `stays`: it stays in its queue, since the trigger holds."""

    kind: Literal["filtered", "dropped", "deadLettered", "stays"]
    reason: str
    message: str = ""


FILTERED = Uncalled("filtered", "Filtered")


class Screening:
    """The filter of a trigger, and what follows from its errors and from events that cannot be read."""

    def __init__(
        self, trigger: TriggerSource, hold: FailureHold, counters: Counters, tell: Callable[[str], None]
    ) -> None:
        """`tell` hears of comparisons in the filter that are never true, or always."""
        self._filter: Callable[[Delivery], bool] | None = None
        self._types: TypeWatch | None = None
        self.streak: FilterStreak | None = None  # the events that the filter has kept out without a break
        if trigger.filter:  # without one, nothing of CEL is imported
            from trigger_sources.dispatch import filter_streak, filter_types, filters

            self._types = filter_types.TypeWatch(tell)
            self.streak = filter_streak.FilterStreak()
            self._filter = filters.compile_filter(trigger.filter, self._types, self.streak)
        self._on_error = trigger.filter_error
        self._drops = trigger.delivery.on_failure == "drop"
        self._hold = hold
        self._counters = counters
        self.is_needed = self._filter is not None  # for an event that can be read

    def look_at(self, held: Held) -> Uncalled | None:
        """The end of an event that is not called; None for one that is called."""
        if unreadable := held.delivery.unreadable:
            drops = held.delivery.caller_waits or (self._drops and not held.redriven)
            return Uncalled("dropped" if drops else "deadLettered", "Unreadable", unreadable)
        if self._filter is None:
            return None
        try:
            passes = self._filter(held.delivery)
        except FilterError as error:
            self._counters.filter_errors += 1
            return None if self._on_error == "deliver" else self._after_error(held, str(error))
        if not self._hold.filter_works:
            self._hold.filter_worked()
        if passes:
            return None
        note = self._types.note if self._types is not None else ""
        return Uncalled("filtered", "Filtered", note) if note else FILTERED

    def _after_error(self, held: Held, error: str) -> Uncalled:
        if held.delivery.caller_waits or (self._on_error == "drop" and not held.redriven):
            return Uncalled("dropped", "FilterError", error)
        message = f"spec.filter: {error}"
        holds = held.redriven == 0 and self._hold.filter_failed(held.lane_or_itself, message)
        return Uncalled("stays" if holds else "deadLettered", "FilterError", message)
