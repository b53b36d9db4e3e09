"""What functions print, line by line, bounded in length and in rate. Pure but for the clock that it is given."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

LINE_MAX_BYTES = 4096
BURST_LINES = 200
LINES_PER_SECOND = 50.0


class LogLine(NamedTuple):
    function: str
    text: str
    left_out: bool = False  # not the function's own: it says how many lines are not shown


class Lines:
    """Cuts a stream of bytes into lines. What is too much is counted, neither kept nor decoded."""

    def __init__(
        self,
        function: str,
        clock: Callable[[], float],
        *,
        burst: int = BURST_LINES,
        per_second: float = LINES_PER_SECOND,
    ) -> None:
        self._function = function
        self._clock = clock
        self._burst = burst
        self._per_second = per_second
        self._tokens = float(burst)
        self._at = clock()
        self._rest = b""  # of a line whose end is still to come, at most LINE_MAX_BYTES
        self._cut_bytes = 0  # of that line, beyond the bound
        self._left_out = 0
        self._muted = False

    @property
    def owes_note(self) -> bool:
        """Whether lines were left out of which nothing was said yet."""
        return self._left_out > 0

    def feed(self, data: bytes) -> Iterator[LogLine]:
        """The lines that are complete now and may be shown."""
        self._refill()
        position = 0
        while (end := data.find(b"\n", position)) >= 0:
            if self._muted or self._tokens < 1:
                self._muted = True
                # A function that prints 100 MB costs one count of newlines per chunk, no more
                last = data.rfind(b"\n")
                self._left_out += data.count(b"\n", position)
                self._rest, self._cut_bytes = b"", 0
                position = last + 1
                break
            yield from self.pause()
            self._tokens -= 1
            yield self._line(data[position:end])
            position = end + 1
        self._keep(data[position:])

    def end(self) -> Iterator[LogLine]:
        """What is left when the stream ends: an unfinished line, and the count of what was left out."""
        if self._rest:
            yield self._line(b"")
        if self._left_out:
            yield self._note()

    def pause(self) -> Iterator[LogLine]:
        """To be called when nothing came for a moment: says what was left out so far."""
        self._refill()
        if self._left_out and not self._muted:
            yield self._note()

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        # Once muted, for a second's worth of lines: a note between any two lines would help nobody
        if self._tokens >= min(self._burst, self._per_second):
            self._muted = False

    def _keep(self, data: bytes) -> None:
        room = LINE_MAX_BYTES - len(self._rest)
        self._rest += data[:room]
        self._cut_bytes += max(0, len(data) - room)

    def _line(self, data: bytes) -> LogLine:
        self._keep(data)
        text = self._rest.decode(errors="replace").rstrip("\r")
        if self._cut_bytes:
            text += f" … ({self._cut_bytes} bytes more)"
        self._rest, self._cut_bytes = b"", 0
        return LogLine(self._function, text)

    def _note(self) -> LogLine:
        count, self._left_out = self._left_out, 0
        return LogLine(self._function, f"… {count} lines left out", left_out=True)
