"""The lock of a state folder: at most one fabric uses it at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubeirq.on_machine.private_files import make_private, private_files


class InUse(Exception):
    """Another fabric uses this state folder. The text has its process id."""


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Holds the lock while the context is open. The kernel frees it when the process ends. Raises InUse.

    The files in the folder are its owner's only, and so are those that this process makes meanwhile.
    """
    with private_files():
        state.mkdir(parents=True, exist_ok=True)
        with (state / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                pid = file.read().strip() or "unknown"
                raise InUse(
                    f"{state}: another fabric runs on this folder (pid {pid}); stop it, or choose another --state"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            make_private(state)
            yield
