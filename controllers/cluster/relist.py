"""Lists objects again: reads the metadata of all, and whole only those that a cache does not have in that version."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from controllers.cluster.api import PAGE_SIZE, Api, Object, without_managers
from controllers.cluster.informer_cache import Version

METADATA_PAGE_SIZE = 500
WATCH_PATIENCE_SECONDS = 5.0  # for the next page of a watch that lists the same objects
_MOST_SINGLE_READS = 20  # of more objects, the whole list is cheaper
_LOOK_SECONDS = 0.1


async def relist(
    api: Api,
    api_version: str,
    kind: str,
    namespace: str | None,
    labels: Mapping[str, str] | None,
    *,
    cached: Callable[[Object], Object | None],
    page_size: int = PAGE_SIZE,
    patience_seconds: float = 0.0,
) -> AsyncIterator[Object]:
    """All objects of the kind, whole or as `cached` has them. `cached` gets metadata, and returns the cached object.

    `page_size` is that of whole objects. With `patience_seconds`, a watch fills the cache at the same time: as long as
    it brings a missing object within so many seconds, none is read beside it.
    """
    changed: list[Object] = []
    same: list[Object] = []
    asked = api.objects(api_version, kind, namespace, labels, metadata_only=True, page_size=METADATA_PAGE_SIZE)
    listed = [without_managers(found) async for found in asked]
    await _until_cached(listed, cached, patience_seconds)
    for found in listed:
        known = cached(found)
        if known is not None and Version.of(known) == Version.of(found):
            same.append(known)
        else:
            changed.append(found)
    if len(changed) > _MOST_SINGLE_READS:
        async for found in api.objects(api_version, kind, namespace, labels, page_size=page_size):
            yield found
        return
    for found in same:
        yield found
    for found in changed:
        metadata = found["metadata"]
        whole = await api.get(api_version, kind, metadata["namespace"], metadata["name"])
        if whole is not None:
            yield whole


async def _until_cached(
    listed: Sequence[Object], cached: Callable[[Object], Object | None], patience_seconds: float
) -> None:
    """Returns once few objects are missing, or none came for so many seconds."""
    clock = asyncio.get_running_loop().time
    missing, since = [found for found in listed if cached(found) is None], clock()
    while len(missing) > _MOST_SINGLE_READS and clock() - since < patience_seconds:
        await asyncio.sleep(_LOOK_SECONDS)
        still = [found for found in missing if cached(found) is None]
        if len(still) < len(missing):
            since = clock()
        missing = still
