"""The memory that this process may use: what a setting says, its container's limit, or the machine's memory."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

VARIABLE = "KUBEIRQ_MEMORY_LIMIT"
_LEAST = 64 * 1024 * 1024


def memory_limit(
    environment: Mapping[str, str] = os.environ, proc: Path = Path("/proc/self"), mounted: Path = Path("/sys/fs/cgroup")
) -> int:
    """The limit in bytes. Raises ValueError if the variable KUBEIRQ_MEMORY_LIMIT holds no number of bytes."""
    if text := environment.get(VARIABLE):
        if not text.isascii() or not text.isdigit() or int(text) < _LEAST:
            raise ValueError(f"{VARIABLE}: {text!r} is not a whole number of bytes from {_LEAST}")
        return int(text)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits_of_groups(proc, mounted)])


def _limits_of_groups(proc: Path, mounted: Path) -> Iterator[int]:
    """The limits of the process's control group and of those above it, in version 1 and 2."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            yield from _limits(mounted, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits(mounted / "memory", path, "memory.limit_in_bytes")


def _limits(mounted: Path, path: str, name: str) -> Iterator[int]:
    """A container sees the path of its group on the node, and its own group at the top."""
    own = mounted / path.lstrip("/")
    for folder in (own, *own.parents):
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            text = "max"
        if text.isdigit():
            yield int(text)
        if folder == mounted:
            return
