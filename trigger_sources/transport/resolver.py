"""Resolves hosts that triggers call, and checks their addresses just before a connection is made."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

from trigger_sources.transport.client import Resolve
from trigger_sources.transport.egress_policy import Reach, literal_of

Lookup = Callable[[str], Awaitable[tuple[str, Sequence[str]]]]  # from an absolute name to its canonical name, addresses


async def looked_up(name: str) -> tuple[str, Sequence[str]]:
    """The canonical name and the addresses of an absolute name, from DNS. Raises OSError."""
    try:
        loop, flags = asyncio.get_running_loop(), socket.AI_CANONNAME
        found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError:
        raise OSError(f"{name!r} is not a host name") from None
    return f"{(found[0][3] or name).removesuffix('.')}.", list(dict.fromkeys(str(info[4][0]) for info in found))


def resolver(reach: Reach | None, namespace: str, lookup: Lookup = looked_up) -> Resolve | None:
    """A function from a host to the addresses that the policy allows; None if there is no policy.

    The function raises PermissionError, with the reason, or OSError.
    """
    if reach is None:
        return None

    async def resolve(host: str) -> Sequence[str]:
        name = reach.absolute(host, namespace)
        alias, found = (name, [name]) if literal_of(name) is not None else await lookup(name)
        if not reach.allows(name, namespace):
            for shown in (host, alias):  # a Service of type ExternalName is an alias that its owner chooses
                if (problem := reach.refusal(shown, namespace, found)) is not None:
                    raise PermissionError(problem)
        return found

    return resolve
