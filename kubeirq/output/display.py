"""What a person sees while events flow: one line an event, bounded a second, the functions' own lines between them."""

import time
from collections import Counter
from collections.abc import Callable

from kubeirq.output.function_logs import LogLine
from trigger_sources.dispatch.held import Seen

EVENT_LINES_PER_SECOND = 20
_ID_CHARACTERS = 24
_COLOURS = {"delivered": 32, "retry": 33, "held": 33, "parked": 31, "deadLettered": 31, "dropped": 31, "filtered": 90}
_WORDS = {"deadLettered": "dead-lettered", "retry": "retried", "returned": "given back"}


class Display:
    """Writes lines. `tick` is to be called once a second."""

    def __init__(
        self, write: Callable[[str], None], *, colours: bool, lines_per_second: int = EVENT_LINES_PER_SECOND
    ) -> None:
        self._write = write
        self._colours = colours
        self._lines_per_second = lines_per_second
        self._shown = {
            True: 0,
            False: 0,
        }  # of what went well and of what did not, bounded apart: trouble is not drowned
        self._more: Counter[str] = Counter()

    def event(self, seen: Seen) -> None:
        """Cheap when there are many: what is over the bound is only counted."""
        fine = seen.what in ("delivered", "filtered")
        if self._shown[fine] >= self._lines_per_second:
            self._more[seen.what] += 1
            return
        self._shown[fine] += 1
        self._write(self._painted(line_of(seen), _COLOURS.get(seen.what)))

    def log_line(self, line: LogLine) -> None:
        self._write(self._painted(f"         {line.function} | ", 36) + printable(line.text))

    def notice(self, text: str) -> None:
        for line in text.splitlines():
            self._write(f"{_clock(time.time())} {printable(line)}")

    def tick(self) -> None:
        """A second went by: says what was not shown in it."""
        if self._more:
            self._write(self._painted(more_of(self._more), 90))
        self._more.clear()
        self._shown = {True: 0, False: 0}

    def _painted(self, text: str, colour: int | None) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours and colour is not None else text


def line_of(seen: Seen) -> str:
    """One event's line: when, which trigger and function, which event, how it went."""
    parts = [_clock(seen.at), f"{seen.trigger} → {seen.function}", short_id(seen.event_id)]
    parts.append(_WORDS.get(seen.what, seen.what) if seen.what != "retry" else "failed")
    if seen.status is not None:
        parts.append(str(seen.status))
    if seen.latency_seconds is not None:
        parts.append(duration(seen.latency_seconds))
    if seen.attempt > 1:
        parts.append(f"attempt {seen.attempt}")
    if seen.message:
        parts.append(f"({printable(seen.message)})")
    return "  ".join(parts)


def more_of(counts: Counter[str]) -> str:
    """The line for what was not shown one by one."""
    total = sum(counts.values())
    kinds = ", ".join(f"{thousands(count)} {_WORDS.get(what, what)}" for what, count in counts.most_common())
    return f"         … {thousands(total)} more in the last second: {kinds}"


def short_id(event_id: str) -> str:
    """Its start, which an event's replies share, and its end, where ids made of coordinates differ."""
    text = printable(event_id)
    return text if len(text) <= _ID_CHARACTERS else f"{text[:11]}…{text[-12:]}"


def printable(text: str) -> str:
    """What strangers wrote, with nothing in it that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)


def duration(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def thousands(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
