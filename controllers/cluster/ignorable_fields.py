"""Reads which fields a definition lists as ignorable: an older controller runs a spec without them."""

from controllers.cluster.api import METADATA_LIST, Api, Refused, path_of
from controllers.cluster.known_fields import listed_in

_NOT_FOR_THIS_CONTROLLER = (403, 404)  # somebody else grants the rights, and left this one out


async def ignorable_fields_of(api: Api, definition: str) -> frozenset[str]:
    """Those of the definition with this name, such as functions.kubeirq.dev; none where it cannot be read."""
    path = path_of("apiextensions.k8s.io/v1", "CustomResourceDefinition", None)
    query = [("fieldSelector", f"metadata.name={definition}")]
    try:
        page = await api.request("GET", path, query=query, accept=METADATA_LIST)
    except Refused as refused:
        if refused.status in _NOT_FOR_THIS_CONTROLLER:
            return frozenset()
        raise
    return frozenset().union(*(listed_in(found) for found in page["items"] or ()))
