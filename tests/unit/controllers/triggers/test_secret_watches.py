"""Each namespace's Secrets are watched apart from those of the others."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from controllers.cluster.api import Api, Object, Refused
from controllers.triggers.secret_watches import SecretWatches
from controllers.triggers.secrets import Secrets
from trigger_sources.source import SourceError
from trigger_sources.spec import SecretRef

REFERENCE = SecretRef(name="s", key="k")


def secret(namespace: str, version: str = "1", value: str = "eA==") -> Object:
    metadata = {"namespace": namespace, "name": "s", "uid": namespace, "resourceVersion": version}
    return {"metadata": metadata, "data": {"k": value}}


class Server:
    """The far side: it forbids or does not answer for some namespaces, and sends what is put into `news`."""

    def __init__(self) -> None:
        self.forbidden: set[str] = set()
        self.silent: set[str] = set()
        self.news: asyncio.Queue[Object] = asyncio.Queue()

    async def snapshot(self, api_version: str, kind: str, namespace: str, _: Any) -> tuple[list[Object], str]:
        if namespace in self.silent:
            await asyncio.Event().wait()
        if namespace in self.forbidden:
            raise Refused(403, "secrets is forbidden")
        return [secret(namespace)], "1"

    async def changes(self, *_: Any) -> AsyncGenerator[tuple[str, Object], None]:
        while True:
            yield "MODIFIED", await self.news.get()


async def test_a_namespace_that_is_forbidden_or_silent_concerns_no_other() -> None:
    server, secrets = Server(), Secrets()
    server.forbidden, server.silent = {"b"}, {"c"}
    watches = SecretWatches(cast(Api, server), secrets)
    changed: list[tuple[str, set[str]]] = []
    watches.on_change = lambda namespace, names: changed.append((namespace, set(names)))
    waiting = asyncio.ensure_future(watches.begin("c"))
    await watches.begin("b")
    await watches.begin("a")
    assert secrets.text("a", REFERENCE) == "x"
    with pytest.raises(SourceError, match="may not read"):
        secrets.text("b", REFERENCE)
    server.news.put_nowait(secret("a", "2", "eQ=="))
    while changed != [("a", {"s"})] * 2:
        await asyncio.sleep(0)
    assert secrets.text("a", REFERENCE) == "y"
    assert not waiting.done()
    await watches.retain({"b"})
    assert not secrets.is_listed("a"), "no trigger refers to a Secret there any more"
    await asyncio.wait_for(waiting, 5)
    await watches.begin("a")
    assert secrets.text("a", REFERENCE) == "x"
    await watches.aclose()


async def test_a_short_refusal_takes_no_known_secret_and_a_long_one_does() -> None:
    secrets = Secrets()
    watches = SecretWatches(cast(Api, Server()), secrets)
    await watches.begin("a")
    watches._refused("a", Refused(403, "the roles are not read yet"), time.monotonic() - 1)
    assert secrets.text("a", REFERENCE) == "x"
    watches._refused("a", Refused(500, "no answer"), None)
    assert secrets.text("a", REFERENCE) == "x"
    watches._refused("a", Refused(403, "secrets is forbidden"), time.monotonic() - 100)
    with pytest.raises(SourceError, match="may not read"):
        secrets.text("a", REFERENCE)
    await watches.aclose()
