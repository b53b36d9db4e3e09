"""A function that writes down what it did, and what that says of events: lost, twice, out of order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Answers 503 to a share of the calls. A line is one append just before the answer: it was done.
FUNCTION = """
import json, os, random, threading, time

ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
share = float(os.environ.get("FAIL_SHARE", "0"))
poison = os.environ.get("POISON")
works = float(os.environ.get("WORKS_SECONDS", "0"))
dice = random.Random()
at_once = 0
counting = threading.Lock()


def handler(event, context):
    global at_once
    with counting:
        at_once += 1
        beside = at_once
    try:
        return work(event, context, beside)
    finally:
        with counting:
            at_once -= 1


def work(event, context, beside):
    data = event["data"]
    if data["key"] == poison and not os.path.exists(os.environ["LEDGER"] + ".mended"):
        return "poison", 500
    if dice.random() < share:
        return "try again", 503
    if works:
        time.sleep(works)
    place = (event["event-id"], data["key"], data["n"])
    line = "%s %s %d %.6f %s %d" % (*place, time.time(), context["attempt"], beside)
    os.write(ledger, line.encode() + b"\\n")
"""


@dataclass(frozen=True)
class Entry:
    event_id: str
    key: str
    number: int
    at: float  # seconds since the epoch
    attempt: int
    at_once: int  # calls that this process worked on when this one began


@dataclass(frozen=True)
class Account:
    """The entries, compared with the events that were sent."""

    sent: int
    delivered: int
    lost: int
    duplicates: int
    out_of_order: int

    def __str__(self) -> str:
        return (
            f"sent {self.sent}, delivered {self.delivered}, lost {self.lost}, "
            f"duplicates {self.duplicates}, out of order {self.out_of_order}"
        )


def entries(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        event_id, key, number, at, attempt, at_once = line.split(" ")
        found.append(Entry(event_id, key, int(number), float(at), int(attempt), int(at_once)))
    return found


def account(path: Path, sent: Mapping[str, Sequence[int]]) -> Account:
    """`sent` has the numbers of each key in the order in which they were published.

    Out of order is an event whose first delivery came after that of a later one of its key; what was delivered before
    is a duplicate.
    """
    seen: dict[str, dict[int, None]] = {key: {} for key in sent}
    duplicates = out_of_order = 0
    for entry in entries(path):
        of_key = seen[entry.key]
        if entry.number in of_key:
            duplicates += 1
            continue
        if of_key and entry.number < next(reversed(of_key)):
            out_of_order += 1
        of_key[entry.number] = None
    total = sum(len(numbers) for numbers in sent.values())
    delivered = sum(len(of_key) for of_key in seen.values())
    lost = sum(len(set(numbers) - set(seen[key])) for key, numbers in sent.items())
    return Account(total, delivered, lost, duplicates, out_of_order)


def repeated(path: Path) -> list[Entry]:
    """Every delivery of the events that were delivered more than once, in order."""
    times = Counter(entry.number for entry in entries(path))
    return [entry for entry in entries(path) if times[entry.number] > 1]


def clean(events: int) -> str:
    """The summary of a run in which every event came once and in order."""
    return f"sent {events}, delivered {events}, lost 0, duplicates 0, out of order 0"


def count(path: Path) -> int:
    """How many lines there are: cheap enough to be asked often."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


# Any event: its id, and when it was delivered
IDS = """
import os, time

ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def handler(event, context):
    os.write(ledger, ("%s %.6f\\n" % (event["event-id"], time.time())).encode())
"""


def ids(path: Path) -> list[str]:
    """Those that IDS wrote, in order."""
    return [line.split(" ")[0] for line in path.read_text().splitlines()] if path.exists() else []
