"""Ports that are free, and stay so until a server takes them."""

import random
import socket

# Below the kernel's range for outgoing connections: one of those took a server's port before the server did
_PORTS = range(15_000, 32_000)
_given: set[int] = set()
_dice = random.SystemRandom()  # hypothesis and tests seed the other one, in every process alike


def free_port() -> int:
    """A loopback TCP port that nothing listens on and that this process was not given before."""
    while True:
        port = _dice.choice(_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
