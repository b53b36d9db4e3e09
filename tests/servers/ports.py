"""Ports that are free, and stay so until a server takes them."""

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

# Below the kernel's range for outgoing connections: one of those took a server's port before the server did
_PORTS = range(15_000, 32_000)
_given: set[int] = set()
_dice = random.SystemRandom()  # hypothesis and tests seed the other one, in every process alike


def free_port() -> int:
    """A loopback TCP port that nothing listens on and that no test process of this machine was given before."""
    while True:
        port = _dice.choice(_PORTS)
        if port in _given or not _reserve(port):
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def _reserve(port: int) -> bool:
    """Whether this process has the port from now on. The kernel gives it back when the process ends.

    A lock on the byte of a shared file that has the port's number.
    """
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _reservations() -> int:
    """The file, open as long as the process lives: closing it would give all ports back."""
    path = Path(tempfile.gettempdir()) / f"kubeirq-test-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def own_address() -> str:
    """An address of this machine that is not a loopback one: the API server takes no other endpoint."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])
