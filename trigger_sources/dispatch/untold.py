"""Remembers the outcomes of events that are settled here, while their source does not know it. Pure.

A source that lost its connection hands their positions out again. It is then told the outcome, and no call starts.
"""

from collections import OrderedDict
from dataclasses import replace

from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.dispatch.held import Held

MOST_REMEMBERED = 10_000


class Untold(OrderedDict[str, Held]):
    """The settled events by position, oldest first.

    It is a dictionary itself: each event that comes is looked up in it, and a method of our own would cost a call.
    """

    def remember(self, held: Held) -> Held | None:
        """Keeps the event's outcome. Returns the event whose outcome is remembered no longer, if there is one.

        That is the oldest one when they are too many. An event without a position is never kept: nothing tells its next
        hand-out from a new event.
        """
        position, outcome = held.delivery.position, held.outcome
        assert outcome is not None
        if position is None:
            return held
        # The newer hand-out brings the event along: here only the outcome is needed, without the function's answer
        held.delivery = Delivery(replace(held.delivery.event, data=None), held.delivery.settle, position)
        held.outcome = Outcome(outcome.kind, outcome.reason)
        held.attempts = held.history = ()
        self[position] = held
        return next(iter(self.values())) if len(self) > MOST_REMEMBERED else None

    def forget(self, held: Held) -> None:
        if held.delivery.position is not None:
            self.pop(held.delivery.position, None)
