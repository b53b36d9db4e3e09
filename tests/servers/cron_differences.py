"""Reads the tables of docs/cron.md that compare kubeirq with Kubernetes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cron.md"


@dataclass(frozen=True)
class Difference:
    """One expression, and the words for each side: refused, as `another expression`, never runs, or runs."""

    expression: str
    kubeirq: str
    kubernetes: str


@dataclass(frozen=True)
class ClockChange:
    """One expression on the day of a clock change: the local times at which each side fires."""

    expression: str
    zone: str
    day: str
    kubeirq: Sequence[str]
    kubernetes: Sequence[str]


def differences() -> Sequence[Difference]:
    return [Difference(expression.strip("`"), *sides) for expression, *sides in _rows(3)]


def clock_changes() -> Sequence[ClockChange]:
    return [
        ClockChange(expression.strip("`"), zone, day, _times(ours), _times(theirs))
        for expression, zone, day, ours, theirs in _rows(5)
    ]


def same_as(words: str) -> str | None:
    """The expression that a side reads this one as."""
    match = re.fullmatch(r"as `([^`]+)`", words)
    return match[1] if match else None


def _rows(columns: int) -> Sequence[Sequence[str]]:
    text = PAGE.read_text().partition("### Differences from Kubernetes")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows if len(row) == columns]


def _times(text: str) -> Sequence[str]:
    return [] if text == "none" else text.split()
