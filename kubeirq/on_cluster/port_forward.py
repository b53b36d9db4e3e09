"""Forwards a port of a pod to a Unix socket on this machine.

The node opens the connection inside the pod, so that no NetworkPolicy stands in its way.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from kubeirq.on_cluster.connection import AccessDenied, Cluster

_PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1  # channels; the first message of each is the number of the port
_CHUNK_BYTES = 64 * 1024


class NotForwarded(Exception):
    """The API server or the node forwards nothing to this pod. The text says why."""


@dataclass
class Forward:
    """A forwarded port, for one connection."""

    socket: Path  # only this user reaches it
    problems: list[str] = field(default_factory=list)  # the node's words


@asynccontextmanager
async def forwarded(cluster: Cluster, namespace: str, pod: str, port: int) -> AsyncIterator[Forward]:
    """Raises AccessDenied without the right, and NotForwarded, both before it yields."""
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
    try:
        async with cluster.socket(path, [("ports", str(port))], _PROTOCOL) as remote:
            with tempfile.TemporaryDirectory(prefix="kubeirq-") as folder:
                forward = Forward(Path(folder) / "s")

                async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                    await _join(remote, reader, writer, forward.problems)

                async with await asyncio.start_unix_server(joined, forward.socket):
                    yield forward
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (401, 403):
            raise AccessDenied(
                f"no permission: get and create for pods/portforward in namespace {namespace}"
            ) from error
        raise NotForwarded(f"the API server answered portforward with status {error.status}") from error


async def _join(
    remote: aiohttp.ClientWebSocketResponse,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    problems: list[str],
) -> None:
    """Carries bytes both ways until one side ends."""

    async def to_pod() -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await remote.send_bytes(bytes([_DATA]) + data)

    async def from_pod() -> None:
        has_begun = set()
        async for message in remote:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data or message.data[0] > _ERROR:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel not in has_begun:
                has_begun.add(channel)
                data = data[2:]
            if channel == _ERROR and data:
                problems.append(data.decode(errors="replace").strip())
                return
            writer.write(data)
            await writer.drain()

    ways = [asyncio.create_task(to_pod()), asyncio.create_task(from_pod())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()


def why(problems: Sequence[str], error: Exception) -> str:
    """The node's words if there are any, else those of the error."""
    return problems[0] if problems else str(error) or type(error).__name__
