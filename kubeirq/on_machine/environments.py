"""What a function's dependencies are installed into: a virtual environment by their content, built once."""

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

from kubeirq.on_machine.children import start_child, stop_child

# What the runtime itself imports
RUNTIME_NEEDS = ("httptools>=0.6.4", "uvloop>=0.21")
_LAST_LINES = 12
_WHOLE = "installed"


class NotInstalled(Exception):
    """The function's dependencies cannot be installed. The text ends with the installer's own last lines."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kubeirq" / "environments"


def fingerprint_of(requirements: str) -> str:
    """Names an environment: the same for the same Python and the same lines, comments and blank ones aside."""
    lines = [line.strip() for line in requirements.splitlines()]
    wanted = "\n".join(line for line in lines if line and not line.startswith("#"))
    text = "\n".join((sys.version, sys.executable, *RUNTIME_NEEDS, wanted))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def interpreter_for(requirements: str, *, label: str, show: Callable[[str], None], cache: Path) -> Path:
    """The Python that has these requirements; without any, our own. Raises NotInstalled.

    `show` is given a line when something is installed, which can take a while.
    """
    if not any(line.strip() and not line.strip().startswith("#") for line in requirements.splitlines()):
        return Path(sys.executable)
    folder = cache / fingerprint_of(requirements)
    python = folder / "bin" / "python"
    whole = folder / _WHOLE
    if not whole.exists():
        async with _locked(folder.with_suffix(".lock")):
            if not whole.exists():  # another may have built it meanwhile
                show(f"{label}: installs its dependencies (once)")
                await _build(folder, requirements)
                show(f"{label}: dependencies are installed")
    return python


async def _build(folder: Path, requirements: str) -> None:
    """The marker comes last: a folder without it was left half built, and is built anew."""
    shutil.rmtree(folder, ignore_errors=True)
    await _run([sys.executable, "-m", "venv", str(folder)])
    file = folder / "requirements.txt"
    file.write_text(requirements)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    await _run([*install, "--requirement", str(file), *RUNTIME_NEEDS])
    (folder / _WHOLE).touch()


async def _run(command: Sequence[str]) -> None:
    process = await start_child(command, environment=os.environ, output=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        last: deque[str] = deque(maxlen=_LAST_LINES)
        async for line in process.stdout:
            last.append(line.decode(errors="replace").rstrip())
        if await process.wait() != 0:
            raise NotInstalled("spec.dependencies: not installed:\n" + "\n".join(last))
    finally:
        await stop_child(process, 1)


@asynccontextmanager
async def _locked(file: Path) -> AsyncIterator[None]:
    """One builder at a time, over all processes of this user."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.1)
        yield
