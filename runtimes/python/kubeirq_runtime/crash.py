"""The trace of a worker's crash in C code: the lines of Python that led there, in a file in memory.

The worker writes them as it crashes. The supervisor copies them to the log, and finds the function's own line.
"""

import os

_CURRENT = "Current thread "
_MOST_BYTES = 64 * 1024


class CrashReport:
    """Made before the fork: the worker writes it, and the supervisor reads it."""

    def __init__(self):
        self.file = os.memfd_create("crash")

    def take(self):
        """The text, and the file is closed; empty if the worker has not crashed in C code."""
        text = os.pread(self.file, _MOST_BYTES, 0).decode(errors="replace")
        os.close(self.file)
        return text


def crash_place(report, code_path):
    """`h.py:9 in handler`: the innermost own line of the thread that crashed; empty if there is none."""
    _, found, stack = report.partition(_CURRENT)
    folder = code_path.rstrip(os.sep) + os.sep
    for line in stack.partition("\n\n")[0].splitlines() if found else ():
        file, _, rest = line.strip().removeprefix('File "').partition('", line ')
        if rest and file.startswith(folder) and f"{os.sep}site-packages{os.sep}" not in file:
            number, _, name = rest.partition(" in ")
            return f"{file[len(folder) :]}:{number} in {name}"
    return ""
