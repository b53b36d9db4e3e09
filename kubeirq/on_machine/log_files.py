"""Log files in the state folder, of functions and of the fabric: limits their size, and reads them."""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from kubeirq.output.fabric_log_lines import printed_record, record_about
from kubeirq.output.letter_text import time_text

MAX_BYTES = 8 * 1024 * 1024  # then the file is rotated to NAME.log.1, which replaces the previous one
_POLL_SECONDS = 0.25


def function_log(state: Path, namespace: str, name: str) -> Path:
    return state / "logs" / "functions" / namespace / f"{name}.log"


def fabric_log(state: Path) -> Path:
    """The log of the whole fabric, one JSON object a line, which has the lines about triggers."""
    return state / "logs" / "kubeirq.log"


class FunctionLogs:
    """A file for each function, open while the fabric runs."""

    def __init__(self, state: Path, max_bytes: int = MAX_BYTES) -> None:
        self._state = state
        self._max_bytes = max_bytes
        self._files: dict[tuple[str, str], IO[str]] = {}

    def write(self, namespace: str, name: str, line: str) -> None:
        """Writes the line with its time. Ignores a full disk, so that it does not stop the function."""
        try:
            file = self._files.get((namespace, name))
            if file is not None and file.tell() > self._max_bytes:
                self._files.pop((namespace, name)).close()
                file = None
            if file is None:
                path = function_log(self._state, namespace, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.exists() and path.stat().st_size > self._max_bytes:
                    path.replace(path.with_suffix(".log.1"))
                file = self._files[namespace, name] = path.open("a", buffering=1, encoding="utf-8", errors="replace")
            file.write(f"{time_text(time.time())} {line}\n")
        except OSError:
            return

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


async def read_records(
    file: Path, tail: int, follow: bool, trigger: str | None = None
) -> AsyncGenerator[dict[str, Any], None]:
    """The last `tail` records of the file; with `follow` also every new one, across rotations.

    With `trigger`, only those about it.
    """
    with closing(_GrowingFile(file)) as reader:
        for record in deque(_about(trigger, reader.lines()), maxlen=tail):
            yield record
        while follow:
            await asyncio.sleep(_POLL_SECONDS)
            for record in _about(trigger, reader.lines()):
                yield record


def has_lines_about(file: Path, trigger: str) -> bool:
    """Whether the fabric's log has a line about the trigger (namespace/name)."""
    with closing(_GrowingFile(file)) as reader:
        return next(_about(trigger, reader.lines()), None) is not None


def _about(trigger: str | None, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        found = printed_record(line) if trigger is None else record_about(line, trigger)
        if found is not None:
            yield found


class _GrowingFile:
    """Reads new lines of a file that grows and that is rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._rest = ""

    def lines(self) -> list[str]:
        """The complete lines since the last call."""
        found = self._read()
        if self._file is not None and self._is_rotated():
            found += self._read()  # the lines that were written before the rotation
            self.close()
            found += self._read()
        *lines, self._rest = (self._rest + found).split("\n")
        return lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> str:
        if self._file is None:
            try:
                self._file = self._path.open(encoding="utf-8", errors="replace")
            except OSError:
                return ""
        return self._file.read()

    def _is_rotated(self) -> bool:
        assert self._file is not None
        try:
            return os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino
        except OSError:
            return False
