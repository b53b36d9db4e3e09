"""A silent WebSocket to the API server is kept open by pings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from kubeirq.on_cluster.connection import Cluster


class Session:
    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    @asynccontextmanager
    async def ws_connect(self, url: str, **options: Any) -> AsyncIterator[str]:
        self.options = options
        yield url


async def test_a_call_that_takes_long_sends_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()

    async def authenticated(*_: Any) -> tuple[str, dict[str, str]]:
        return "wss://server.example/exec", {}

    monkeypatch.setattr(Cluster, "_session", session)
    monkeypatch.setattr(Cluster, "_proxy_and_tls", {})
    monkeypatch.setattr(Cluster, "_authenticated", authenticated)
    async with Cluster(cast(Any, None), "context", "default").socket("/exec", [], "v4.channel.k8s.io"):
        assert session.options["heartbeat"] == 20
