"""What functions print, and what happens to triggers, in files of the state folder: bounded, and read back."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

from kubeirq.output.log_lines import line_about

MOST_BYTES = 8 * 1024 * 1024  # then it is put aside, in place of the one that was put aside before
_LOOK_SECONDS = 0.25


def function_log(state: Path, namespace: str, name: str) -> Path:
    return state / "logs" / "functions" / namespace / f"{name}.log"


def trigger_log(state: Path) -> Path:
    """Of the whole fabric, as lines of JSON."""
    return state / "logs" / "kubeirq.log"


class FunctionLogs:
    """A file for each function, open while the fabric runs."""

    def __init__(self, state: Path, most_bytes: int = MOST_BYTES) -> None:
        self._state = state
        self._most_bytes = most_bytes
        self._files: dict[tuple[str, str], IO[str]] = {}

    def write(self, namespace: str, name: str, line: str) -> None:
        """A full disk stops no function."""
        try:
            file = self._files.get((namespace, name))
            if file is not None and file.tell() > self._most_bytes:
                self._files.pop((namespace, name)).close()
                file = None
            if file is None:
                path = function_log(self._state, namespace, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.exists() and path.stat().st_size > self._most_bytes:
                    path.replace(path.with_suffix(".log.1"))
                file = self._files[namespace, name] = path.open("a", buffering=1, encoding="utf-8", errors="replace")
            file.write(line + "\n")
        except OSError:
            return

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


async def lines_of(file: Path, tail: int, follow: bool, trigger: str | None = None) -> AsyncGenerator[str, None]:
    """At most `tail` of the lines that are there; then, if asked to follow, those to come, over rotations.

    With `trigger`, only those about it, as people read them.
    """
    with closing(_Reader(file)) as reader:
        for line in deque(_about(trigger, reader.lines()), maxlen=tail):
            yield line
        while follow:
            await asyncio.sleep(_LOOK_SECONDS)
            for line in _about(trigger, reader.lines()):
                yield line


def _about(trigger: str | None, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        found = line if trigger is None else line_about(line, trigger)
        if found is not None:
            yield found


class _Reader:
    """Reads what is new in a file that grows, and in the one that takes its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._rest = ""

    def lines(self) -> list[str]:
        """The whole lines since the last time."""
        found = self._read()
        if self._file is not None and self._is_other():
            found += self._read()  # what was written before it was put aside
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

    def _is_other(self) -> bool:
        assert self._file is not None
        try:
            return os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino
        except OSError:
            return False
