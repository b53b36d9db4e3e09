"""A watch that brings half a line ends as a lost connection does, so that its reader begins anew."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controllers.cluster.api import Api

EVENT = b'{"type": "ADDED", "object": {"metadata": {"name": "a"}}}\n'


class Client:
    """The client, with one answer."""

    def __init__(self, *lines: bytes) -> None:
        self.lines = lines
        self.is_closed = False

    async def param_serialize(self, *_: Any, **__: Any) -> tuple[()]:
        return ()

    async def call_api(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(status=200, response=SimpleNamespace(content=self.content(), close=self.close))

    async def content(self) -> AsyncIterator[bytes]:
        for line in self.lines:
            yield line

    def close(self) -> None:
        self.is_closed = True


async def test_half_a_line_is_a_lost_connection() -> None:
    client, names = Client(EVENT, EVENT[:20]), []
    with pytest.raises(ConnectionError, match="a watch event cannot be read"):
        async for _, found in Api(cast(Any, client)).changes("v1", "Pod", "n", {"a": "b"}, "1"):
            names.append(found["metadata"]["name"])
    assert names == ["a"]
    assert client.is_closed
