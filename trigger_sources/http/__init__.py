"""The HTTP source: requests through the fabric's own gateway.

A process without HTTP triggers has the gateway and not the source: the source's models take memory.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trigger_sources.http.source import HTTPTrigger

__all__ = ["HTTPTrigger"]


def __getattr__(name: str) -> object:
    if name != "HTTPTrigger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trigger_sources.http.source import HTTPTrigger

    return HTTPTrigger
