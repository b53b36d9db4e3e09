"""The catalogue of runtimes. To support another version, add a line.

The runtimes image has a folder `/runtime/<name>` for each: `server.py`, which starts the runtime, its other files, and
its dependencies in `packages`. A function's pod copies that folder, so that it can use any image with the language and
version.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """One language and version. The catalogue lists the newest version of each language first."""

    name: str
    language: str
    image: str
    interpreter: str = "python3"
    code_suffix: str = ".py"
    dependencies_file: str = "requirements.txt"
    packages: tuple[str, ...] = ("httptools", "uvloop")  # the dependencies of its files


CATALOGUE = (
    Runtime("python3.13", "python", "python:3.13-slim"),
    Runtime("python3.12", "python", "python:3.12-slim"),
    Runtime("python3.11", "python", "python:3.11-slim"),
)
DEFAULT = CATALOGUE[0].name
NAMES = tuple(runtime.name for runtime in CATALOGUE)
BY_NAME = {runtime.name: runtime for runtime in CATALOGUE}
