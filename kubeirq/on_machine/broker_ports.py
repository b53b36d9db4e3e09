"""Chooses the ports of the embedded brokers and remembers them, so that clients find a broker at the same address."""

import asyncio
import fcntl
import logging
import os
import tempfile
from functools import cache
from pathlib import Path

import orjson

from kubeirq.on_machine.child_processes import free_port

log = logging.getLogger(__name__)

_ATTEMPTS = 40
_ATTEMPT_SECONDS = 0.05


async def choose_port(state: Path, kind: str, usual: int) -> int:
    """The port of the last run if it is free, else the usual one, else any free port."""
    remembered = _remembered(state).get(kind)
    if remembered is not None:
        # The broker of a fabric that was just killed needs a moment to end
        for _ in range(_ATTEMPTS):
            if _take(remembered):
                return remembered
            await asyncio.sleep(_ATTEMPT_SECONDS)
    port = usual
    while not _take(port):
        port = free_port()
    if remembered is not None:
        log.warning("port of the last run is taken", extra={"broker": kind, "port": remembered, "instead": port})
    _remember(state, kind, port)
    return port


def _take(port: int) -> bool:
    """Takes a port that nobody listens on and that no other fabric is about to use. The process keeps it until it ends.

    Two fabrics that start at the same moment both find a port free, and the slower one would use the other's broker.
    The lock is on the byte of a shared file that has the port's number.
    """
    file = _ports_file()
    if file is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except BlockingIOError:
            return False
    return free_port([port]) == port


@cache
def _ports_file() -> int | None:
    """The shared file, open until the process ends: closing it unlocks every port. None where it cannot be made."""
    path = Path(tempfile.gettempdir()) / f"kubeirq-ports-{os.getuid()}"
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        log.warning("ports are not locked", extra={"file": str(path), "problem": str(error)})
        return None


def _remembered(state: Path) -> dict[str, int]:
    try:
        found = orjson.loads((state / "ports.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return {kind: port for kind, port in found.items() if isinstance(port, int)} if isinstance(found, dict) else {}


def _remember(state: Path, kind: str, port: int) -> None:
    state.mkdir(parents=True, exist_ok=True)
    temporary = state / "ports.json.tmp"
    temporary.write_bytes(orjson.dumps({**_remembered(state), kind: port}))
    temporary.replace(state / "ports.json")
