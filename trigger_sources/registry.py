"""The trigger kinds that are installed. Built-in and third-party kinds register by entry point."""

from functools import cache

from trigger_sources import plugins
from trigger_sources.plugins import BrokenPlugin
from trigger_sources.source import TriggerSource

__all__ = ["GROUP", "BrokenPlugin", "kinds", "source_of", "sources"]

GROUP = "kubeirq.trigger_sources"


def kinds() -> frozenset[str]:
    """The names of all trigger kinds. Loads nothing: a source imports its broker's client."""
    return plugins.names(GROUP)


def sources() -> dict[str, type[TriggerSource]]:
    """Every class by its kind, loaded. Raises BrokenPlugin: a plugin that fails is never left out silently."""
    return {kind: source_of(kind) for kind in sorted(kinds())}


@cache
def source_of(kind: str) -> type[TriggerSource]:
    """The class of a kind. Raises KeyError for an unknown kind, BrokenPlugin for a class that cannot be loaded."""
    return plugins.load(GROUP, kind, TriggerSource, "trigger kind")
