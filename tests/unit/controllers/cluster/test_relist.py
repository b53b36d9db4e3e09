"""A list that is repeated reads whole objects only where they changed."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest

from controllers.cluster.api import Api, Object
from controllers.cluster.relist import relist


class Server:
    """The far side, which notes the reads of whole objects."""

    def __init__(self, versions: Mapping[str, int]) -> None:
        self.versions = dict(versions)
        self.gone: set[str] = set()  # between the list and the read
        self.whole_lists = 0
        self.read: list[str] = []

    def whole(self, name: str) -> Object:
        metadata = {"name": name, "namespace": "a", "uid": name, "resourceVersion": str(self.versions[name])}
        return {"kind": "Thing", "metadata": metadata, "spec": self.versions[name]}

    async def objects(self, *_: Any, metadata_only: bool = False, page_size: int = 0) -> AsyncIterator[Object]:
        self.whole_lists += not metadata_only
        for name in self.versions:
            found = self.whole(name)
            if metadata_only:
                del found["spec"]
            yield found

    async def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        self.read.append(name)
        return None if name in self.gone else self.whole(name)


async def relisted(server: Server, cache: Mapping[str, Object], patience_seconds: float = 0) -> dict[str, Any]:
    asked = relist(
        cast("Api", server),
        "v1",
        "Thing",
        None,
        None,
        cached=lambda found: cache.get(found["metadata"]["name"]),
        patience_seconds=patience_seconds,
    )
    return {found["metadata"]["name"]: found["spec"] async for found in asked}


async def test_it_reads_the_objects_that_are_new_or_changed() -> None:
    server = Server({"same": 1, "changed": 2, "going": 3})
    cache = {name: server.whole(name) for name in server.versions}
    server.versions |= {"changed": 5, "new": 6, "going": 7}
    server.gone.add("going")
    assert await relisted(server, cache) == {"same": 1, "changed": 5, "new": 6}
    assert sorted(server.read) == ["changed", "going", "new"]
    assert server.whole_lists == 0


@pytest.mark.parametrize(("count", "lists"), [(20, 0), (21, 1), (300, 1)])
async def test_it_lists_whole_objects_where_many_differ(count: int, lists: int) -> None:
    server = Server({f"n{number}": number for number in range(count)})
    assert await relisted(server, {}) == server.versions
    assert server.whole_lists == lists
    assert len(server.read) == (0 if lists else count)


async def test_an_object_of_the_same_name_and_version_with_another_uid_is_another_object() -> None:
    server = Server({"a": 1})
    former = server.whole("a")
    former["metadata"]["uid"] = "former"
    assert await relisted(server, {"a": former}) == {"a": 1}
    assert server.read == ["a"]


async def test_at_the_start_it_reads_nothing_that_a_watch_is_about_to_bring() -> None:
    server, cache = Server({f"n{number}": number for number in range(300)}), dict[str, Object]()

    async def watch() -> None:
        for name in server.versions:
            cache[name] = server.whole(name)
            if len(cache) % 50 == 0:
                await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    assert await relisted(server, cache, patience_seconds=60) == server.versions
    assert (server.whole_lists, server.read) == (0, [])
    await watching


async def test_it_lists_whole_objects_once_a_watch_brings_none() -> None:
    server = Server({f"n{number}": number for number in range(300)})
    cache = {name: server.whole(name) for name in list(server.versions)[:50]}
    assert await relisted(server, cache, patience_seconds=0.3) == server.versions
    assert server.whole_lists == 1
