"""The cache of Functions: an edit that races with a write of the status is rolled out, and a namesake is a new one."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from controllers.cluster.api import Api, Object
from controllers.functions.controller import FunctionController
from controllers.functions.pod_template import Settings

KEY = ("shop", "pay")


def function(version: int, generation: int, code: str, uid: str = "u-1") -> Object:
    return {
        "apiVersion": "kubeirq.dev/v1",
        "kind": "Function",
        "metadata": {
            "namespace": "shop", "name": "pay", "uid": uid, "generation": generation, "resourceVersion": str(version),
        },
        "spec": {"source": {"inline": code}},
    }  # fmt: skip


class Server:
    """The far side: it keeps the objects that are applied, and does something during the first write of the status."""

    def __init__(self, during_the_write: Callable[[], Object]) -> None:
        self.during_the_write = during_the_write
        self.applied: list[Object] = []
        self.status_writes = 0
        self.version = 100
        self.functions: list[Object] = []  # every version
        self.lists_deployments = asyncio.Event()

    async def request(self, *_: Any, **__: Any) -> Object:
        return {"items": []}  # of the definitions

    async def get(self, _: str, kind: str, *names: str) -> Object | None:
        if kind != "Function":
            return None
        return max(self.functions, key=lambda found: int(found["metadata"]["resourceVersion"]))

    async def delete(self, found: Object) -> None:
        return

    async def create(self, wanted: Object) -> Object:
        return wanted

    async def apply(self, wanted: Object, *, subresource: str = "", **_: Any) -> Object:
        if subresource:
            self.status_writes += 1
            is_first = self.status_writes == 1
            found = self.during_the_write() if is_first else function(200, 2, "new", wanted["metadata"]["uid"])
            self.functions.append(found)
            return {**found, "status": wanted["status"]}
        self.version += 1
        self.applied.append(wanted)
        found = copy.deepcopy(wanted)
        found["metadata"] |= {"uid": f"o-{self.version}", "resourceVersion": str(self.version)}
        return found

    def code(self) -> Sequence[str]:
        return [text for found in self.applied if found["kind"] == "ConfigMap" for text in found["data"].values()]

    async def list(self, *_: Any) -> Sequence[Object]:
        return []

    async def objects(self, _: str, kind: str, *__: Any, **options: Any) -> AsyncIterator[Object]:
        if kind == "Deployment":
            await self.lists_deployments.wait()
        for found in self.functions if kind == "Function" else ():
            yield found


async def code_after(controller: FunctionController, server: Server, count: int) -> Sequence[str]:
    working = asyncio.create_task(controller.queue.run())
    try:
        async with asyncio.timeout(5):
            while len(server.code()) < count:
                await asyncio.sleep(0)
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
    return server.code()


def controller_of(server: Server) -> FunctionController:
    return FunctionController(cast("Api", server), Settings(runtime_image="r"))


def observe(controller: FunctionController, server: Server, kind: str, found: Object) -> None:
    if kind != "DELETED":
        server.functions.append(found)
    controller._on_function({"type": kind, "object": found})


async def test_an_answer_that_is_older_than_the_edit_does_not_bring_the_old_code_back() -> None:
    def edit_arrives_first() -> Object:
        observe(controller, server, "MODIFIED", function(11, 2, "new"))
        return function(10, 1, "old")

    server = Server(edit_arrives_first)
    controller = controller_of(server)
    observe(controller, server, "ADDED", function(1, 1, "old"))
    assert await code_after(controller, server, 2) == ["old", "new"]


async def test_an_edit_that_the_answer_brings_is_rolled_out() -> None:
    """The watch event of the edit is older than the answer then, so that only the answer tells of it."""
    server = Server(lambda: function(11, 2, "new"))
    controller = controller_of(server)
    observe(controller, server, "ADDED", function(1, 1, "old"))
    assert await code_after(controller, server, 2) == ["old", "new"]


async def test_the_late_deletion_of_a_namesake_does_not_remove_its_successor() -> None:
    server = Server(lambda: function(1, 1, ""))
    controller = controller_of(server)
    observe(controller, server, "ADDED", function(1, 1, "old"))
    observe(controller, server, "ADDED", function(3, 1, "new", "u-2"))
    observe(controller, server, "DELETED", function(2, 1, "old"))
    found = controller._functions.get(KEY)
    assert found is not None
    assert found["metadata"]["uid"] == "u-2"


async def test_a_successor_of_the_same_generation_is_reconciled() -> None:
    server = Server(lambda: function(2, 1, "old"))
    controller = controller_of(server)
    observe(controller, server, "ADDED", function(1, 1, "old"))
    await code_after(controller, server, 1)
    observe(controller, server, "MODIFIED", function(5, 1, "new", "u-2"))
    assert await code_after(controller, server, 2) == ["old", "new"]


async def test_nothing_is_written_before_everything_is_listed() -> None:
    """Without the list each Deployment looks like a missing one: its replicas and the pace are not known."""
    server = Server(lambda: function(2, 1, "old"))
    controller = controller_of(server)
    running = asyncio.create_task(controller.run())
    try:
        observe(controller, server, "ADDED", function(1, 1, "old"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert server.applied == []
        server.lists_deployments.set()
        async with asyncio.timeout(5):
            while not server.code():
                await asyncio.sleep(0)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
