"""The one definition of a ledger: every event that was sent has an end. In sets of ids. Pure.

    sent = delivered + filtered + dead-lettered + dropped + reported lost

*Reported lost* counts only where the source destroyed the record (by retention, a purge or a deletion), and the number
has to be the one that the condition, the metric and the log say. *Out of order* compares the first deliveries of a
lane, which is a trigger, a partition in one incarnation, and a key; redriven, replayed and released events do not
count. *Duplicates* are bounded by the calls that ran and the events that were settled and not committed at each kill.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

_NAMED = 20

Id = Hashable
Lane = Hashable  # the events of a lane are promised in order; None: no order is promised


@dataclass(frozen=True)
class Books:
    """Everything that is known about the events of one trigger, by id."""

    sent: Mapping[Id, Lane]  # in the order in which they were sent
    delivered: Sequence[Id] = ()  # as the function recorded them, with repetitions
    filtered: Collection[Id] = ()
    dead_lettered: Collection[Id] = ()
    dropped: Collection[Id] = ()
    destroyed: Collection[Id] = ()  # records that the source destroyed while they may have had no end yet
    reported_lost: Mapping[str, int] = field(default_factory=dict)  # by the place that says so: metric, log, condition
    in_doubt: Collection[Id] = ()  # sent without a confirmation: they need no end, and have no place in the order
    moved: Collection[Id] = ()  # redriven, replayed or released: delivered beside the order
    repeatable: int = 0  # calls that ran and events that were settled and not committed, over all kills


@dataclass(frozen=True)
class Verdict:
    """The numbers of a ledger, and the ids of the events with which it does not hold."""

    sent: int
    delivered: int
    filtered: int
    dead_lettered: int
    dropped: int
    lost: int  # destroyed by the source before they had another end
    repeatable: int
    missing: tuple[Id, ...]  # sent, without an end
    unsent: tuple[Id, ...]  # with an end, although nobody sent them
    duplicates: tuple[Id, ...]  # one entry for each end of an event after its first one
    out_of_order: tuple[Id, ...]  # delivered for the first time after a later event of their lane
    misreported: Mapping[str, int]  # the places that say another number of lost events, with that number

    @property
    def breaches(self) -> list[str]:
        """A line for each way in which the ledger does not hold, with the ids."""
        found = [
            _line("missing", self.missing),
            _line("never sent", self.unsent),
            _line("out of order", self.out_of_order),
            _line(f"more than {self.repeatable} duplicates", self.duplicates[self.repeatable :] and self.duplicates),
        ]
        misreported = (f"{place} reports {count} lost, not {self.lost}" for place, count in self.misreported.items())
        return [*filter(None, found), *misreported]

    @property
    def holds(self) -> bool:
        return not self.breaches

    def __str__(self) -> str:
        others = {
            "filtered": self.filtered, "dead-lettered": self.dead_lettered, "dropped": self.dropped,
            "reported lost": self.lost, "never sent": len(self.unsent),
        }  # fmt: skip
        parts = [f"sent {self.sent}", f"delivered {self.delivered}"]
        parts += [f"{name} {count}" for name, count in others.items() if count]
        parts += [f"missing {len(self.missing)}", f"duplicates {len(self.duplicates)}"]
        return ", ".join([*parts, f"out of order {len(self.out_of_order)}"])


def judge(books: Books) -> Verdict:
    """Compares the ends of the events with the events that were sent."""
    delivered = set(books.delivered)
    ends = [delivered, *map(set, (books.filtered, books.dead_lettered, books.dropped))]
    ended = set().union(*ends)
    lost = {event for event in books.destroyed if event not in ended and event not in books.in_doubt}
    accounted = ended | lost
    times = Counter(books.delivered) + Counter(event for end in ends[1:] for event in end)
    return Verdict(
        sent=len(books.sent),
        delivered=len(delivered),
        filtered=len(ends[1]),
        dead_lettered=len(ends[2]),
        dropped=len(ends[3]),
        lost=len(lost),
        repeatable=books.repeatable,
        missing=tuple(event for event in books.sent if event not in accounted and event not in books.in_doubt),
        unsent=tuple(event for event in times if event not in books.sent),
        duplicates=tuple(event for event, count in times.items() for _ in range(count - 1)),
        out_of_order=tuple(_out_of_order(books)),
        misreported={place: count for place, count in books.reported_lost.items() if count != len(lost)},
    )


def clean(events: int) -> str:
    """The text of a verdict in which each of the events came once and in order."""
    return f"sent {events}, delivered {events}, missing 0, duplicates 0, out of order 0"


def _out_of_order(books: Books) -> list[Id]:
    beside = {*books.moved, *books.in_doubt}
    places = {event: place for place, event in enumerate(books.sent)}
    newest: dict[Lane, int] = {}
    found = []
    for event in dict.fromkeys(books.delivered):
        lane = books.sent.get(event)
        if lane is None or event in beside:
            continue
        if places[event] < newest.get(lane, -1):
            found.append(event)
        newest[lane] = max(places[event], newest.get(lane, -1))
    return found


def _line(problem: str, events: Sequence[Id]) -> str:
    named = ", ".join(map(str, events[:_NAMED]))
    more = f" and {len(events) - _NAMED} more" if len(events) > _NAMED else ""
    return f"{problem}: {named}{more}" if events else ""
