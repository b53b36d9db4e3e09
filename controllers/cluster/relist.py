"""Lists objects again: reads the metadata of all, and whole only those that a cache does not have in that version."""

from collections.abc import AsyncIterator, Callable, Mapping

from controllers.cluster.api import PAGE_SIZE, Api, Object
from controllers.cluster.informer_cache import Version

METADATA_PAGE_SIZE = 500
_MOST_SINGLE_READS = 20  # of more objects, the whole list is cheaper


async def relist(
    api: Api,
    api_version: str,
    kind: str,
    namespace: str | None,
    labels: Mapping[str, str] | None,
    *,
    cached: Callable[[Object], Object | None],
    page_size: int = PAGE_SIZE,
) -> AsyncIterator[Object]:
    """All objects of the kind, whole or as `cached` has them. `cached` gets metadata, and returns the cached object.

    `page_size` is that of whole objects.
    """
    changed: list[Object] = []
    same: list[Object] = []
    asked = api.objects(api_version, kind, namespace, labels, metadata_only=True, page_size=METADATA_PAGE_SIZE)
    async for found in asked:
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
