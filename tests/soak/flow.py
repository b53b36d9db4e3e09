"""One trigger of the soak: the events that were sent to it, and everything that became of them."""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from servers.ledger import Books, Lane, Verdict, judge
from soak.function import Call

SKIPPED_BY_FILTER = "!has(data.skip)"
_SKIP_EVERY = 10


@dataclass
class Flow:
    """`promise`: "once" is at least once; "most" is at most once, as a core subject has it."""

    name: str
    kind: str
    spec: dict[str, Any]
    keys: int = 8
    ordered: bool = False
    promise: str = "once"
    sends: bool = True  # False: its events come by themselves
    edits: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # values that an operator may choose

    sent: dict[str, Lane] = field(default_factory=dict)
    open: dict[str, float] = field(default_factory=dict)  # confirmed events without an end, and their times
    calls: list[Call] = field(default_factory=list)
    delivered: set[str] = field(default_factory=set)
    in_doubt: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)  # those on which the filter is false
    poisoned: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    destroyed: set[str] = field(default_factory=set)
    reported_lost: dict[str, int] = field(default_factory=dict)
    repeatable: int = 0
    incarnation: int = 1  # of its topic or stream
    filters: bool = False  # whether it has had the filter
    disturbed: bool = False  # an action is under way: events at most once may be lost
    _numbers: Any = field(default_factory=itertools.count)

    def event(self, does: str = "") -> tuple[str, str, dict[str, Any]]:
        """The id, the key and the data of the next event, which is in doubt until `confirm`."""
        number = next(self._numbers)
        id, key = f"{self.name}/{self.incarnation}/{number}", f"k{number % self.keys}"
        data: dict[str, Any] = {"flow": self.name, "id": id, "n": number}
        if does:
            data["does"] = does  # and it has no part in filters
        elif self.edits.get("filter") and number % _SKIP_EVERY == 0:
            data["skip"] = True
            self.skipped.add(id)
        if does == "poison":
            self.poisoned.add(id)
        self.sent[id] = None
        self.in_doubt.add(id)
        return id, key, data

    def confirm(self, id: str, lane: Lane) -> None:
        """The source has the event."""
        self.sent[id] = lane if self.ordered else None
        if self.promise == "most" and self.disturbed:
            return
        self.in_doubt.discard(id)
        if id not in self.delivered and id not in self.poisoned and not (id in self.skipped and self.filters):
            self.open[id] = time.time()

    def called(self, call: Call) -> None:
        self.calls.append(call)
        self.delivered.add(call.id)
        self.open.pop(call.id, None)
        if not self.sends:
            self.sent.setdefault(call.id, None)

    def disturb(self) -> None:
        """Events at most once that have no end yet may get none."""
        self.disturbed = True
        if self.promise == "most":
            self.in_doubt |= self.open.keys()
            self.open.clear()

    def destroy(self) -> None:
        """The source destroys its records now. Nobody knows whether the filter has seen the last ones before."""
        self.destroyed |= self.open.keys()
        if self.filters:
            now = f"{self.name}/{self.incarnation}/"
            self.in_doubt |= {id for id in self.skipped - self.delivered if id.startswith(now)}
        self.open.clear()

    def filter_from_now_on(self) -> None:
        """Events may be filtered from now on, also those that are open."""
        self.filters = True
        for id in self.skipped & self.open.keys():
            del self.open[id]

    def calls_since(self, at: float) -> int:
        return sum(1 for _ in itertools.takewhile(lambda call: call.at >= at, reversed(self.calls)))

    def oldest(self, is_old: Callable[[float], bool]) -> list[str]:
        """Its open events that are old."""
        return [id for id, at in self.open.items() if is_old(at)]

    def verdict(self) -> Verdict:
        """To be asked when everything is settled."""
        ended = self.delivered | self.dead
        return judge(
            Books(
                sent=self.sent,
                delivered=[call.id for call in self.calls],
                filtered=self.skipped - ended - self.in_doubt - self.destroyed if self.filters else (),
                dead_lettered=self.dead,
                destroyed=self.destroyed,
                reported_lost=self.reported_lost,
                in_doubt=self.in_doubt,
                moved=self.moved,
                repeatable=self.repeatable,
            )
        )
