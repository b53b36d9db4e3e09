"""The report of a soak: a line for each action, and at the end the ledger of each trigger, memory, and all breaches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from servers.ledger import Verdict

_MB = 1_000_000
_COLUMNS = ("sent", "delivered", "filtered", "dead", "lost", "in doubt", "again", "of at most", "breaches")


@dataclass
class Report:
    write: Callable[[str], None]
    breaches: list[str] = field(default_factory=list)

    def breach(self, text: str) -> None:
        self.breaches.append(text)
        self.write(f"         BREACH {text}")

    def evidence(self, lines: Sequence[str]) -> None:
        """Shows the state that a breach leaves behind, since the logs of a test do not stay."""
        for line in lines:
            self.write(f"           {line}")

    def action(self, at: float, name: str, detail: str, calm_seconds: float) -> None:
        self.write(f"{at:7.1f}s {name:27} {detail:58} calm after {calm_seconds:4.1f} s")

    def ledgers(self, verdicts: dict[str, tuple[Verdict, int]]) -> None:
        """`verdicts` has each trigger's, and the number of its events in doubt."""
        self.write("")
        self.write(_row("trigger", _COLUMNS))
        for name, (found, in_doubt) in verdicts.items():
            numbers = (
                found.sent, found.delivered, found.filtered, found.dead_lettered, found.lost, in_doubt,
                len(found.duplicates), found.repeatable, len(found.breaches),
            )  # fmt: skip
            self.write(_row(name, numbers))

    def memory(self, readings: Sequence[tuple[float, int, int]], growth_bytes: float) -> None:
        sizes = [size for _, _, size in readings]
        processes = len({pid for _, pid, _ in readings})
        self.write("")
        self.write(
            f"memory of serve: {min(sizes) / _MB:.0f} to {max(sizes) / _MB:.0f} MB in {processes} processes,"
            f" {growth_bytes / _MB:+.1f} MB over the second half"
        )


def _row(name: str, cells: Sequence[object]) -> str:
    return f"{name:17}" + "".join(f"{cell!s:>11}" for cell in cells)
