"""The live view of `kubeirq dev`: a line for each event, up to a limit a second, and the output of the functions."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from kubeirq.output.function_log_lines import LogLine
from trigger_sources.dispatch.held import Seen

EVENT_LINES_PER_SECOND = 20
_REMEMBERED_FAILURES = 1_000
_ID_CHARACTERS = 200  # ids are shown whole, so that they can be pasted; only a hostile one is cut
_COLOURS = {
    "delivered": 32, "retry": 33, "held": 33, "parked": 31, "deadLettered": 31, "dropped": 31, "answered": 31,
    "filtered": 90,
}  # fmt: skip
_WORDS = {
    "deadLettered": "dead-lettered", "retry": "retried", "returned": "given back",
    "answered": "answered with a failure",
}  # fmt: skip


class EventDisplay:
    """Writes lines. Call `tick` once a second.

    `attempts_of` says how many attempts an event of this kind has; None if they have no limit.
    """

    def __init__(
        self, write: Callable[[str], None], *, colours: bool, lines_per_second: int = EVENT_LINES_PER_SECOND,
        attempts_of: Callable[[Seen], int | None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._write = write
        self._attempts_of = attempts_of
        self._failures: OrderedDict[tuple[str, str, str], str] = OrderedDict()  # the last message of each failing event
        self._colours = colours
        self._lines_per_second = lines_per_second
        # Lines shown this second: successes (True) and failures (False) have separate limits, so that many successes
        # never hide a failure
        self._shown = {True: 0, False: 0}
        self._omitted: Counter[str] = Counter()

    def event(self, seen: Seen) -> None:
        """Shows the event. Over the limit it only counts the event, which is cheap."""
        is_success = seen.what in ("delivered", "filtered")
        if self._shown[is_success] >= self._lines_per_second:
            self._omitted[seen.what] += 1
            return
        self._shown[is_success] += 1
        most = self._attempts_of(seen) if seen.what == "retry" else None
        line = event_line(seen, most, is_repeated=self._is_repeated(seen))
        self._write(self._coloured(line, _COLOURS.get(seen.what)))

    def log_line(self, line: LogLine) -> None:
        self._write(self._coloured(f"{_clock(time.time())} {line.function} | ", 36) + printable(line.text))

    def notice(self, text: str) -> None:
        for line in text.splitlines():
            self._write(f"{_clock(time.time())} {printable(line)}")

    def tick(self) -> None:
        """Starts the next second, and says how many events the last one did not show."""
        if self._omitted:
            self._write(self._coloured(omitted_line(self._omitted), 90))
        self._omitted.clear()
        self._shown = {True: 0, False: 0}

    def _is_repeated(self, seen: Seen) -> bool:
        """Whether the event failed before, and for the same reason."""
        key = (seen.trigger, seen.function, seen.event_id)
        if seen.what != "retry":
            self._failures.pop(key, None)
            return False
        before, self._failures[key] = self._failures.get(key), seen.message
        self._failures.move_to_end(key)
        if len(self._failures) > _REMEMBERED_FAILURES:
            self._failures.popitem(last=False)
        return bool(seen.message) and before == seen.message

    def _coloured(self, text: str, colour: int | None) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours and colour is not None else text


def event_line(seen: Seen, most_attempts: int | None = None, *, is_repeated: bool = False) -> str:
    """One event in one line: time, trigger and function, event id, outcome.

    `is_repeated`: the line before of this event has the reason already.
    """
    parts = [_clock(seen.at), f"{seen.trigger} → {seen.function}", short_id(seen.event_id)]
    parts.append(_word_of(seen))
    if seen.status is not None:
        parts.append(str(seen.status))
    if seen.latency_seconds is not None:
        parts.append(duration(seen.latency_seconds))
    if seen.attempt > 1:
        parts.append(f"attempt {seen.attempt}" + (f" of {most_attempts}" if most_attempts else ""))
    message = "as before" if is_repeated else printable(seen.message)
    again = f"again in {seen.again_seconds:.1f} s" if seen.again_seconds is not None else ""
    if note := "; ".join(filter(None, (message, again))):
        parts.append(f"({note})")
    return "  ".join(parts)


def _word_of(seen: Seen) -> str:
    if seen.what == "answered":
        if seen.status is not None:
            return "answered"
        return "refused" if seen.message.startswith("FunctionDown") else "failed"
    return _WORDS.get(seen.what, seen.what) if seen.what != "retry" else "failed"


def omitted_line(counts: Counter[str]) -> str:
    """The line that sums up the events that were not shown one by one."""
    total = sum(counts.values())
    kinds = ", ".join(f"{thousands(count)} {_WORDS.get(what, what)}" for what, count in counts.most_common())
    return f"         … {thousands(total)} more in the last second: {kinds}"


def short_id(event_id: str) -> str:
    """The whole id, unless it is so long that it would hide the rest of the line."""
    text = printable(event_id)
    return text if len(text) <= _ID_CHARACTERS else f"{text[: _ID_CHARACTERS - 13]}…{text[-12:]}"


def printable(text: str) -> str:
    """The text with its control characters escaped, so that an event cannot control the terminal."""
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
