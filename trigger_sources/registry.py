"""The kinds of triggers that are installed: built-in and third-party ones alike, by entry point."""

from functools import cache
from importlib.metadata import entry_points

from trigger_sources.source import TriggerSource

GROUP = "kubeirq.trigger_sources"


class BrokenPlugin(Exception):
    """The plugin author's fault: an entry point that cannot be loaded or is no TriggerSource. Names it."""


@cache
def kinds() -> dict[str, type[TriggerSource]]:
    """Every trigger kind by its name. Raises BrokenPlugin: a plugin that fails to load is never left out in silence."""
    found: dict[str, type[TriggerSource]] = {}
    for point in entry_points(group=GROUP):
        try:
            source = point.load()
        except Exception as error:
            raise BrokenPlugin(f"trigger kind {point.name!r}: {point.value} cannot be loaded: {error!r}") from error
        if not (isinstance(source, type) and issubclass(source, TriggerSource)):
            raise BrokenPlugin(f"trigger kind {point.name!r}: {point.value} is no TriggerSource")
        if found.get(point.name, source) is not source:
            raise BrokenPlugin(
                f"trigger kind {point.name!r}: registered twice, by {found[point.name].__module__} and {point.value}"
            )
        found[point.name] = source
    return found
