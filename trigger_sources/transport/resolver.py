"""The addresses of what a trigger calls, checked when they are known: just before a connection is made."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

from trigger_sources.transport.client import Resolve
from trigger_sources.transport.egress_policy import Reach, literal_of

Lookup = Callable[[str], Awaitable[tuple[str, Sequence[str]]]]  # what an absolute name is an alias of; its addresses


async def looked_up(name: str) -> tuple[str, Sequence[str]]:
    """What DNS says of an absolute name. Raises OSError."""
    try:
        loop, flags = asyncio.get_running_loop(), socket.AI_CANONNAME
        found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError:
        raise OSError(f"{name!r} is no host name") from None
    return f"{(found[0][3] or name).removesuffix('.')}.", list(dict.fromkeys(str(info[4][0]) for info in found))


def resolver(reach: Reach | None, namespace: str, lookup: Lookup = looked_up) -> Resolve | None:
    """From a host to the addresses that may be connected to; it raises PermissionError, which says why not, or OSError.

    None where nothing is bounded.
    """
    if reach is None:
        return None

    async def resolve(host: str) -> Sequence[str]:
        name = reach.absolute(host, namespace)
        alias, found = (name, [name]) if literal_of(name) is not None else await lookup(name)
        if not reach.allows(name, namespace):
            for said in (host, alias):  # a Service of type ExternalName is an alias of whatever its owner says
                if (problem := reach.refusal(said, namespace, found)) is not None:
                    raise PermissionError(problem)
        return found

    return resolve
