"""Keeps the files of a state folder to their owner: they have the payloads of events, dead letters and logs."""

import fnmatch
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_OWN = ("lock", "kubeirq.sqlite*", "kafka.sqlite*", "ports.json*", "admin.sock", "logs", "functions", "nats")
_OWNER_ONLY = 0o077  # as a umask

_umask: int | None = None  # that of the process outside of `private_files`


@contextmanager
def private_files() -> Iterator[None]:
    """The files and folders that this process makes while the context is open are its owner's only."""
    global _umask
    _umask = os.umask(_OWNER_ONLY)
    try:
        yield
    finally:
        os.umask(_umask)
        _umask = None


def outer_umask() -> int:
    """The umask for processes whose files are not the fabric's, or -1 to leave it alone."""
    return -1 if _umask is None else _umask


def make_private(state: Path) -> None:
    """Takes the rights of other users from the fabric's files: an earlier version made them readable for all.

    Other files in the folder keep their rights, and so does the folder then.
    """
    others = 0
    for found in state.iterdir():
        if any(fnmatch.fnmatchcase(found.name, pattern) for pattern in _OWN):
            _restrict(found)
            for folder, folders, files in os.walk(found):
                for name in (*folders, *files):
                    _restrict(Path(folder, name))
        else:
            others += 1
    if not others:
        _restrict(state)


def _restrict(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
        if mode & _OWNER_ONLY and not path.is_symlink():
            path.chmod(mode & 0o700)
    except FileNotFoundError:
        return
    except OSError as error:  # it belongs to somebody else, as the root of a mounted volume does
        log.warning("file not made private", extra={"path": str(path), "problem": str(error)})
