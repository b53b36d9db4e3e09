"""The catalogue of runtimes, as data: a version more is a line more.

The runtime image has a folder `/runtime/<name>` for each: `server.py`, which starts it, its other files, and in
`packages` the packages that they import. A function's pod copies the folder, so any image of the language and version
serves.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """One language and version. The newest of each language stands first."""

    name: str
    language: str
    image: str
    interpreter: str = "python3"
    code_suffix: str = ".py"
    dependencies_file: str = "requirements.txt"
    packages: tuple[str, ...] = ("httptools", "uvloop")  # imported by its files


CATALOGUE = (
    Runtime("python3.13", "python", "python:3.13-slim"),
    Runtime("python3.12", "python", "python:3.12-slim"),
    Runtime("python3.11", "python", "python:3.11-slim"),
)
DEFAULT = CATALOGUE[0].name
NAMES = tuple(runtime.name for runtime in CATALOGUE)
BY_NAME = {runtime.name: runtime for runtime in CATALOGUE}
