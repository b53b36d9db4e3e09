"""The catalogue of runtimes, as data: a version more is a line more."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """One language and version. The newest of each language stands first."""

    name: str
    language: str


CATALOGUE = (
    Runtime("python3.13", "python"),
    Runtime("python3.12", "python"),
    Runtime("python3.11", "python"),
)
DEFAULT = CATALOGUE[0].name
NAMES = tuple(runtime.name for runtime in CATALOGUE)
