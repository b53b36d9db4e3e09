"""Classes that are registered by entry point: built-in ones and those of plugins alike."""

from importlib.metadata import entry_points
from typing import TypeVar

T = TypeVar("T")


class BrokenPlugin(Exception):
    """A plugin author's fault: an entry point that cannot be loaded, or that is not the class it must be."""


def names(group: str) -> frozenset[str]:
    """The registered names. Loads nothing: a class brings its broker's client along."""
    return frozenset(point.name for point in entry_points(group=group))


def load(group: str, name: str, base: type[T], noun: str) -> type[T]:
    """The class with that name, a subclass of `base`; `noun` is for messages.

    Raises KeyError for an unknown name, BrokenPlugin for a class that cannot be loaded.
    """
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if not points:
        raise KeyError(name)
    if len(points) > 1:
        raise BrokenPlugin(f"{noun} {name!r}: registered twice, by {' and '.join(sorted(points))}")
    ((value, point),) = points.items()
    try:
        found = point.load()
    except Exception as error:
        raise BrokenPlugin(f"{noun} {name!r}: {value} cannot be loaded: {error!r}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise BrokenPlugin(f"{noun} {name!r}: {value} is not a {base.__name__}")
    return found
