"""Cuts the output of a function into lines, limited in length and in rate. Pure but for the clock that it is given."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

LINE_MAX_BYTES = 4096
BURST_LINES = 200
LINES_PER_SECOND = 50.0


class LogLine(NamedTuple):
    function: str
    text: str
    left_out: bool = False  # the fabric's own note that says how many lines of the function were left out


class LineCutter:
    """Cuts a stream of bytes into lines. Lines over the limit are counted, and neither kept nor decoded."""

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
        self._rest = b""  # the start of a line whose end has not come yet, at most LINE_MAX_BYTES
        self._cut_bytes = 0  # how much of that line is over the limit
        self._left_out = 0
        self._muted = False

    @property
    def owes_note(self) -> bool:
        """Whether lines were left out and no note has said so yet."""
        return self._left_out > 0

    def feed(self, data: bytes) -> Iterator[LogLine]:
        """The lines that are complete now and within the limit."""
        self._refill()
        position = 0
        while (end := data.find(b"\n", position)) >= 0:
            if self._muted or self._tokens < 1:
                self._muted = True
                # For a function that prints 100 MB, each chunk costs one count of its newlines and no more
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
        """At the end of the stream: the unfinished line, and the note on lines that were left out."""
        if self._rest:
            yield self._line(b"")
        if self._left_out:
            yield self._note()

    def pause(self) -> Iterator[LogLine]:
        """The note on lines that were left out so far. Call this when no data has come for a moment."""
        self._refill()
        if self._left_out and not self._muted:
            yield self._note()

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        # Stay muted until a whole second's worth of lines may be shown: a note between every two lines helps nobody
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
