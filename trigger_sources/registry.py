"""The kinds of triggers that are installed: built-in and third-party ones alike, by entry point."""

from functools import cache
from importlib.metadata import entry_points

from trigger_sources.source import TriggerSource

GROUP = "kubeirq.trigger_sources"


class BrokenPlugin(Exception):
    """The plugin author's fault: an entry point that cannot be loaded or is no TriggerSource. Names it."""


def kinds() -> frozenset[str]:
    """The names of all trigger kinds. Nothing is loaded: a source brings its broker's client along."""
    return frozenset(point.name for point in entry_points(group=GROUP))


def sources() -> dict[str, type[TriggerSource]]:
    """Every class by its kind, loaded. Raises BrokenPlugin: a plugin that fails is never left out in silence."""
    return {kind: source_of(kind) for kind in sorted(kinds())}


@cache
def source_of(kind: str) -> type[TriggerSource]:
    """The class behind a kind. Raises KeyError for an unknown kind, BrokenPlugin for one that cannot be had."""
    points = {point.value: point for point in entry_points(group=GROUP, name=kind)}
    if not points:
        raise KeyError(kind)
    if len(points) > 1:
        raise BrokenPlugin(f"trigger kind {kind!r}: registered twice, by {' and '.join(sorted(points))}")
    ((value, point),) = points.items()
    try:
        source = point.load()
    except Exception as error:
        raise BrokenPlugin(f"trigger kind {kind!r}: {value} cannot be loaded: {error!r}") from error
    if not (isinstance(source, type) and issubclass(source, TriggerSource)):
        raise BrokenPlugin(f"trigger kind {kind!r}: {value} is no TriggerSource")
    return source
