"""The verdict on the times of all rounds. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

Times = dict[str, list[float]]  # by the name of the probe, in seconds

BOUND = 1.5
LEAST_CORES = 0.2  # a hostile tenant that gets less is no neighbour
ALIKE = 0.3  # the CPU of the two may differ by this part


@dataclass
class Rounds:
    """The times of the other tenants beside each of the two, and the cores that each used, by round."""

    bystander: Times = field(default_factory=dict)
    hostile: Times = field(default_factory=dict)
    burnt: list[float] = field(default_factory=list)  # by the bystander
    taken: list[float] = field(default_factory=list)  # by the hostile tenant and for it

    @property
    def says_nothing(self) -> str:
        """The reason why the times cannot be compared; empty if they can."""
        taken, burnt = statistics.mean(self.taken), statistics.mean(self.burnt)
        if taken < LEAST_CORES:
            return f"the hostile tenant got {taken:.2f} cores, and {LEAST_CORES} are needed: the machine is busy"
        if abs(burnt - taken) > ALIKE * taken:
            return f"the hostile tenant took {taken:.2f} cores, and the bystander {burnt:.2f}: the machine is busy"
        return ""


def faults(rounds: Rounds, problems: Sequence[str]) -> list[str]:
    """A line for each promise that does not hold. `problems`: of probes that failed."""
    found = [f"{len(problems)} probes failed, the first: {problems[0]}"] if problems else []
    for name, times in rounds.hostile.items():
        ratio = percentile(times, 0.99) / percentile(rounds.bystander[name], 0.99)
        if ratio > BOUND:
            found.append(f"{name}: p99 is {ratio:.2f} times that beside the bystander, and may be {BOUND} times")
    return found


def percentile(times: Sequence[float], part: float) -> float:
    """The time that so large a part of them does not exceed."""
    return sorted(times)[max(0, math.ceil(part * len(times)) - 1)]
