"""The verdict on the times of all rounds. Pure.

Each round compares its own two halves, and the median of the rounds decides: other load of the machine meets a few
rounds, and not the others.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

Times = dict[str, list[float]]  # by the name of the probe, in seconds

BOUND = 1.5
LEAST_CORES = 0.2  # a hostile tenant that gets less is no neighbour
ALIKE = 0.3  # the CPU of the two may differ by this part
MOST_WAITING = 0.5  # of the time in which a controller could run, beside the bystander


@dataclass
class Round:
    """The times of the other tenants beside each of the two, and the cores that each used."""

    bystander: Times = field(default_factory=dict)
    hostile: Times = field(default_factory=dict)
    burnt: float = 0.0  # by the bystander
    taken: float = 0.0  # by the hostile tenant and for it
    waiting: float = 0.0  # the part of their time that the controllers waited for a core, beside the bystander

    def ratio(self, name: str) -> float:
        """The 99th percentile with the hostile tenant, in that with the bystander."""
        return percentile(self.hostile[name], 0.99) / percentile(self.bystander[name], 0.99)


def ratios(rounds: Sequence[Round]) -> dict[str, list[float]]:
    """By the name of the probe: the ratio of each round."""
    return {name: [each.ratio(name) for each in rounds] for name in rounds[0].hostile}


def says_nothing(rounds: Sequence[Round]) -> str:
    """The reason why the times cannot be compared; empty if they can."""
    taken, burnt = (statistics.median(cores) for cores in ([r.taken for r in rounds], [r.burnt for r in rounds]))
    waiting = statistics.median(each.waiting for each in rounds)
    if waiting > MOST_WAITING:
        return f"the controllers waited for a core for {waiting:.0%} of their time: the machine is busy"
    if taken < LEAST_CORES:
        return f"the hostile tenant got {taken:.2f} cores, and {LEAST_CORES} are needed: the machine is busy"
    if abs(burnt - taken) > ALIKE * taken:
        return f"the hostile tenant took {taken:.2f} cores, and the bystander {burnt:.2f}: the machine is busy"
    return ""


def faults(rounds: Sequence[Round], problems: Sequence[str]) -> list[str]:
    """A line for each promise that does not hold. `problems`: of probes that failed."""
    found = [f"{len(problems)} probes failed, the first: {problems[0]}"] if problems else []
    for name, each in ratios(rounds).items():
        ratio = statistics.median(each)
        if ratio > BOUND:
            found.append(f"{name}: p99 is {ratio:.2f} times that beside the bystander, and may be {BOUND} times")
    return found


def next_share(share: float, burnt: float, taken: float) -> float:
    """The cores that the bystander tries to use next: as many as make it get what the hostile tenant takes.

    On a busy machine it gets less than it tries to.
    """
    got_of_asked = min(1.0, burnt / share) if share > 0 else 1.0
    return taken / max(got_of_asked, 0.5)


def percentile(times: Sequence[float], part: float) -> float:
    """The time that so large a part of them does not exceed."""
    return sorted(times)[max(0, math.ceil(part * len(times)) - 1)]
