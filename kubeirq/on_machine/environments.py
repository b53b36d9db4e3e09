"""Installs a function's dependencies into a virtual environment, which functions with the same dependencies share."""

import asyncio
import fcntl
import hashlib
import os
import shutil
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from kubeirq.on_machine.child_processes import start_child, stop_child

# The packages that the runtime itself imports
RUNTIME_NEEDS = ("httptools>=0.6.4", "uvloop>=0.21")
_LAST_LINES = 12
_COMPLETE = "installed"


class InstallFailed(Exception):
    """The dependencies cannot be installed. The text ends with the last lines of the installer."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kubeirq" / "environments"


def fingerprint_of(requirements: str) -> str:
    """The name of the environment for this Python and these lines. Comments and blank lines do not matter."""
    lines = [line.strip() for line in requirements.splitlines()]
    wanted = "\n".join(line for line in lines if line and not line.startswith("#"))
    text = "\n".join((sys.version, sys.executable, *RUNTIME_NEEDS, wanted))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def interpreter_for(requirements: str, *, label: str, show: Callable[[str], None], cache: Path) -> Path:
    """A Python that has these requirements; without any, the Python of this process. Raises InstallFailed.

    Calls `show` with a line before and after it installs packages, which can take a while.
    """
    if not any(line.strip() and not line.strip().startswith("#") for line in requirements.splitlines()):
        return Path(sys.executable)
    folder = cache / fingerprint_of(requirements)
    python = folder / "bin" / "python"
    marker = folder / _COMPLETE
    if not marker.exists():
        async with _locked(folder.with_suffix(".lock")):
            if not marker.exists():  # another process may have built it meanwhile
                show(f"{label}: installing dependencies (only this once)")
                await _build(folder, requirements)
                show(f"{label}: dependencies installed")
    return python


async def _build(folder: Path, requirements: str) -> None:
    """Writes the marker last: a folder without it is incomplete, and the next attempt builds it again."""
    shutil.rmtree(folder, ignore_errors=True)
    await _run([sys.executable, "-m", "venv", str(folder)])
    file = folder / "requirements.txt"
    file.write_text(requirements)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
               "--quiet", "--progress-bar", "off"]  # fmt: skip
    await _run([*install, "--requirement", str(file), *RUNTIME_NEEDS])
    (folder / _COMPLETE).touch()


async def _run(command: Sequence[str]) -> None:
    process = await start_child(command, environment=os.environ, output=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        last: deque[str] = deque(maxlen=_LAST_LINES)
        async for line in process.stdout:
            last.append(line.decode(errors="replace").rstrip())
        if await process.wait() != 0:
            raise InstallFailed(install_problem(last))
    finally:
        await stop_child(process, 1)


def install_problem(lines: Sequence[str]) -> str:
    """The cause in the first line, which is pip's last error, and then everything that pip said. Pure."""
    said = [line for line in lines if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    head = ": ".join(["spec.dependencies: pip cannot install them", *(errors[-1:] or said[-1:])])
    return "\n".join([head, *said]) if len(said) > 1 else head


@asynccontextmanager
async def _locked(file: Path) -> AsyncIterator[None]:
    """Only one process of this user builds at a time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.1)
        yield
