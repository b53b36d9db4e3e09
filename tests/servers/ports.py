"""Ports that are free just now."""

import socket


def free_port() -> int:
    """A loopback TCP port that nothing listens on. Another process may take it: bind soon."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
