"""Finds out why an address does not answer: its name, its port, or what listens there. For messages to people only."""

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

_SECONDS = 3.0
_MOST_ADDRESSES = 3  # of several, the first ones stand for all


async def reasons_of(addresses: Iterable[str], default_port: int, protocol: str) -> str:
    """One reason for each of the first addresses, in one line: `kafka:9092: connection refused; …`."""
    shown = list(addresses)[:_MOST_ADDRESSES]
    reasons = await asyncio.gather(*(reason_of(address, default_port, protocol) for address in shown))
    return "; ".join(reasons)


async def reason_of(address: str, default_port: int, protocol: str) -> str:
    """The reason with the host and port that it is about. `protocol` is what should be spoken there."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    host, port = parts.hostname or "", parts.port or default_port
    where = f"{host}:{port}"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_SECONDS):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return f"{where}: the name server does not answer"
    except OSError as error:
        return f"{where}: the name cannot be resolved ({error.strerror or error})"
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(str(found[0][4][0]), port)
    except TimeoutError:
        return f"{where}: no answer within {_SECONDS:g} s (a firewall or a NetworkPolicy may be in the way)"
    except ConnectionRefusedError:
        return f"{where}: connection refused (nothing listens on this port)"
    except OSError as error:
        return f"{where}: {error.strerror or error}"
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    hint = "(check the port, and whether it needs TLS)"
    return f"{where}: something listens there and does not answer as {protocol} {hint}"
