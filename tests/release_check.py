"""Checks a release before it is one: builds the wheel and the sdist, looks at what they hold, and runs README's first
example from the wheel in an empty environment.

Usage: release_check.py, in the development environment. Exits 1 at the first check that fails, and says which.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
LIMIT_SECONDS = 120.0


class Failed(Exception):
    """A check that failed: what was expected, and what was found."""


def main() -> int:
    try:
        check_versions()
        with tempfile.TemporaryDirectory(prefix="kubeirq-release-") as name:
            folder = Path(name)
            wheel, sdist = build(folder / "dist")
            check_wheel(wheel)
            check_sdist(sdist)
            run_example(install(wheel, folder / "venv"), folder / "example")
    except Failed as failure:
        print(f"FAILED: {failure}")
        return 1
    print(f"kubeirq {VERSION} can be released")
    return 0


def check_versions() -> None:
    chart = (ROOT / "helm/kubeirq/Chart.yaml").read_text()
    for key in ("version", "appVersion"):
        if f"\n{key}: {VERSION}\n" not in chart:
            raise Failed(f"helm/kubeirq/Chart.yaml: {key} is not {VERSION}, the version in pyproject.toml")
    if f"\n## {VERSION}" not in (ROOT / "CHANGELOG.md").read_text():
        raise Failed(f"CHANGELOG.md has no section for {VERSION}")
    print(f"ok: pyproject.toml, the chart and the changelog have version {VERSION}")


def build(target: Path) -> tuple[Path, Path]:
    """The wheel and the sdist. The wheel is built from the sdist, with the locked build tools of this environment."""
    run(sys.executable, "-m", "build", "--no-isolation", f"--outdir={target}", str(ROOT))
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")
    sizes = (f"{archive.name} ({archive.stat().st_size // 1024} KiB)" for archive in (wheel, sdist))
    print(f"ok: built {' and '.join(sizes)}")
    return wheel, sdist


def check_wheel(wheel: Path) -> None:
    information = f"kubeirq-{VERSION}.dist-info/"
    wanted = committed(*PACKAGES) | {information + name for name in METADATA}
    found = set(zipfile.ZipFile(wheel).namelist())
    compare(wheel, found, wanted)
    untyped = [package for package in PACKAGES if f"{package}/py.typed" not in found]
    if untyped:
        raise Failed(f"{wheel.name}: no py.typed in {', '.join(untyped)}")
    entry_points = zipfile.ZipFile(wheel).read(information + "entry_points.txt").decode()
    for kind in PROJECT["project"]["entry-points"]["kubeirq.trigger_sources"]:
        if f"\n{kind} = " not in entry_points:
            raise Failed(f"{wheel.name}: no entry point for {kind}")
    print(f"ok: the wheel has the {len(wanted)} files of {', '.join(PACKAGES)}, and nothing else")


def check_sdist(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = [member.name for member in archive if member.isfile()]
    compare(sdist, {name.split("/", 1)[1] for name in names}, committed() | {"PKG-INFO"})
    print("ok: the sdist has every file of the repository, the chart and the tests too, and nothing else")


def committed(*folders: str) -> set[str]:
    """The paths in git of all that these folders hold; without any, of the whole repository."""
    return set(run("git", "-C", str(ROOT), "ls-files", "-z", *folders).rstrip("\0").split("\0"))


def compare(archive: Path, found: set[str], wanted: set[str]) -> None:
    for names, problem in ((wanted - found, "lacks"), (found - wanted, "has what git does not have:")):
        if names:
            raise Failed(f"{archive.name} {problem} {', '.join(sorted(names)[:10])}")


def install(wheel: Path, target: Path) -> Path:
    """Installs the wheel as a user does, without the lock. Returns the folder of its programs."""
    venv.create(target, with_pip=True)
    programs = target / "bin"
    run(str(programs / "python"), "-m", "pip", "install", "--quiet", str(wheel))
    run(str(programs / "python"), "-m", "pip", "check")
    print("ok: the wheel installs into an empty environment")
    return programs


def run_example(programs: Path, folder: Path) -> None:
    """README's first function and trigger: serve them, publish an event, see it delivered, stop."""
    folder.mkdir()
    for name in write_example(folder):
        print(f"    {name} of README.md")
    kubeirq = str(programs / "kubeirq")
    run(kubeirq, "check", "greet.yaml", folder=folder)
    with (folder / "serve.log").open("w") as log:
        serve = [kubeirq, "serve", "greet.yaml", "--http-port=0", "--metrics-port=0"]
        process = subprocess.Popen(serve, cwd=folder, env=environment(), stdout=log, stderr=log)
    try:
        wait(lambda: ready(kubeirq, folder), "the example is ready", process, folder)
        run(kubeirq, "publish", "names", "-d", '{"name": "Ada"}', folder=folder)
        wait(
            lambda: delivered(kubeirq, folder), "the event is delivered, and the function answered it", process, folder
        )
        process.terminate()
        code = process.wait(LIMIT_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code != 0:
        raise Failed(f"kubeirq serve exited with {code} on SIGTERM:\n{(folder / 'serve.log').read_text()}")
    print("ok: it stops on SIGTERM")


def write_example(folder: Path) -> list[str]:
    """Writes README's files: each is a block whose first line is a comment with the file's name."""
    blocks = re.findall(
        r"^```(?:python|yaml)\n# (greet\.\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S
    )
    names = [name for name, _ in blocks]
    if names != ["greet.py", "greet.yaml"]:
        raise Failed(f"README.md: greet.py and greet.yaml are expected as the example's files, not {names}")
    for name, text in blocks:
        (folder / name).write_text(text)
    return names


def wait(holds: Callable[[], bool], what: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not holds():
        if process.poll() is not None or time.monotonic() > end:
            raise Failed(f"not within {LIMIT_SECONDS:.0f} s: {what}\n{(folder / 'serve.log').read_text()}")
        time.sleep(0.1)
    print(f"ok: {what}")


def ready(kubeirq: str, folder: Path) -> bool:
    """`get` exits 0 only where everything is ready; before the fabric answers it exits 4."""
    asked = subprocess.run([kubeirq, "get"], cwd=folder, env=environment(), check=False, capture_output=True)
    return asked.returncode == 0


def delivered(kubeirq: str, folder: Path) -> bool:
    (trigger,) = json.loads(run(kubeirq, "get", "--output=json", folder=folder))["triggers"]
    answer: dict[str, Any] | None = trigger["lastAnswer"]
    return trigger["counters"]["delivered"] == 1 and answer is not None and answer["status"] == 200


def run(*command: str, folder: Path | None = None) -> str:
    """Runs the command, which must succeed, and returns its standard output."""
    ran = subprocess.run(command, cwd=folder, env=environment(), check=False, capture_output=True, text=True)
    if ran.returncode != 0:
        raise Failed(f"{' '.join(command)} exited with {ran.returncode}:\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}")
    return ran.stdout


def environment() -> dict[str, str]:
    """This process's, without anything that would let the checkout or another fabric be found."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "KUBE", "VIRTUAL_ENV"))}


if __name__ == "__main__":
    sys.exit(main())
