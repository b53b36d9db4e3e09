"""Functions that record their calls in a file, and the file compared with the events that were sent."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from servers.fabric import Fabric
from servers.ledger import Books, Verdict, judge

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


def entries(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        event_id, key, number, at, attempt, at_once = line.split(" ")
        found.append(Entry(event_id, key, int(number), float(at), int(attempt), int(at_once)))
    return found


def account(path: Path, sent: Mapping[str, Sequence[int]], repeatable: int = 0) -> Verdict:
    """`sent` has the numbers of each key in the order in which they were published; each key is a lane."""
    lanes = {number: key for key, numbers in sent.items() for number in numbers}
    return judge(Books(lanes, [entry.number for entry in entries(path)], repeatable=repeatable))


class Repeatable:
    """Counts how many events kills may repeat, at most: no more than the promise allows.

    These are the calls that run and the events that are settled and not committed. Both are read from the metrics just
    before a kill; each line that the ledger gets after that is one event more of them.
    """

    def __init__(self, ledger: Path) -> None:
        self.events = 0
        self._ledger = ledger

    @asynccontextmanager
    async def in_kill(self, it: Fabric) -> AsyncIterator[None]:
        """Around a kill, and all calls that may still end after it."""
        before = count(self._ledger)
        self.events += await it.may_come_again()
        yield
        self.events += count(self._ledger) - before


def repeated(path: Path) -> list[Entry]:
    """Every delivery of the events that were delivered more than once, in order."""
    times = Counter(entry.number for entry in entries(path))
    return [entry for entry in entries(path) if times[entry.number] > 1]


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
