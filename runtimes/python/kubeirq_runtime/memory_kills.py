"""Whether the kernel killed a worker for want of memory: the counter of its control group, in version 1 and 2.

The supervisor imports this, so it imports nothing but `os`.
"""

import os

MOUNTED = "/sys/fs/cgroup"
_UNITS = (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10))


class MemoryKills:
    """Compares the counter with its last value. A system without control groups counts none."""

    def __init__(self, proc="/proc/self", mounted=MOUNTED):
        self._folder, self._counter, self._limit = _place(proc, mounted)
        self._count = self._kills()

    def since_last(self):
        """`out of memory, limit 96Mi` if the kernel has killed a process of the group since the last call."""
        before, self._count = self._count, self._kills()
        if self._count <= before:
            return ""
        limit = _read(f"{self._folder}/{self._limit}").strip()
        return f"out of memory, limit {_in_units(int(limit))}" if limit.isdigit() else "out of memory"

    def _kills(self):
        for line in _read(f"{self._folder}/{self._counter}").splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill" and number.strip().isdigit():
                return int(number)
        return 0


def _place(proc, mounted):
    """The folder of this process's group, and its files with the counter and the limit."""
    for line in _read(f"{proc}/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            top, counter, limit = mounted, "memory.events", "memory.max"
        elif "memory" in controllers.split(","):
            top, counter, limit = f"{mounted}/memory", "memory.oom_control", "memory.limit_in_bytes"
        else:
            continue
        # A container without a cgroup namespace sees its path on the node, and its own group at the top
        for folder in (top + path.rstrip("/"), top):
            if os.path.exists(f"{folder}/{counter}"):
                return folder, counter, limit
    return mounted, "memory.events", "memory.max"


def _read(path):
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _in_units(size):
    for unit, length in _UNITS:
        if size >= length and size % length == 0:
            return f"{size // length}{unit}"
    return f"{size} bytes"
