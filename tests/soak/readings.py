"""The metrics of `serve`, its memory, and the lost events in its log."""

import json
import re
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import psutil

_SAMPLE = re.compile(r"^(?P<name>kubeirq_\w+)\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_COMMIT_SECONDS = 1.0  # events are committed at the latest so long after they were settled, where the source answers
_SETTLED = ("delivered", "filtered", "dead_lettered", "dropped")
_KEPT = 600


@dataclass(frozen=True)
class Reading:
    """The metrics of one process at one moment: by metric and trigger, and the calls that run by trigger."""

    at: float  # seconds since the epoch
    pid: int
    values: Mapping[tuple[str, str], float]
    running: Mapping[str, int]
    memory_bytes: int
    uncommitted: Mapping[str, int] = field(default_factory=dict)  # settled within the time that a commit may take

    def settled(self, trigger: str) -> int:
        return sum(int(self.values.get((f"kubeirq_events_{kind}_total", trigger), 0)) for kind in _SETTLED)


class Readings:
    """Those of all processes that `serve` has had."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/metrics"
        self.memory: list[tuple[float, int, int]] = []  # time, pid, bytes
        self._recent: deque[Reading] = deque(maxlen=_KEPT)
        self._lost: Counter[str] = Counter()
        self._counted: dict[str, int] = {}  # the present value of the counter of lost events

    async def take(self, pid: int) -> Reading:
        """Raises aiohttp.ClientError, TimeoutError, or psutil.Error if the process has ended."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self._address) as answer:
            text = await answer.text()
        values: dict[tuple[str, str], float] = {}
        running: Counter[str] = Counter()
        for found in _SAMPLE.finditer(text):
            labels = dict(_LABEL.findall(found["labels"]))
            if "trigger" not in labels:  # a metric of the process
                continue
            trigger, value = labels["trigger"], float(found["value"])
            if found["name"] == "kubeirq_held_events_by_state":
                running[trigger] += int(value) if labels["state"] in ("running", "settling") else 0
            else:
                values[found["name"], trigger] = value
        now = time.time()
        reading = Reading(now, pid, values, running, psutil.Process(pid).memory_info().rss)
        reading = replace(reading, uncommitted=self._uncommitted(reading))
        self._recent.append(reading)
        self.memory.append((now, pid, reading.memory_bytes))
        for (name, trigger), value in values.items():
            if name == "kubeirq_source_lost_total":
                self._lost[trigger] += _increase(self._counted.get(trigger, 0), int(value))
                self._counted[trigger] = int(value)
        return reading

    def lost(self, trigger: str) -> int:
        return self._lost[trigger]

    def _uncommitted(self, now: Reading) -> dict[str, int]:
        before = [found for found in self._recent if found.pid == now.pid and found.at <= now.at - _COMMIT_SECONDS]
        triggers = {trigger for _, trigger in now.values}
        return {name: _increase(before[-1].settled(name) if before else 0, now.settled(name)) for name in triggers}


def _increase(before: int, now: int) -> int:
    """Of a counter, which begins at 0 again when its trigger or process starts again."""
    return now - before if now >= before else now


def reported_lost(log: Path) -> Counter[str]:
    """The events that a fabric's log reports as lost, by trigger."""
    found: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        if '"events lost by the source"' in line:
            record = json.loads(line)
            found[record["trigger"].rpartition("/")[2]] += record["count"]
    return found
