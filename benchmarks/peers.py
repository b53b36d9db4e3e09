"""Installs the other projects once, in a virtual environment outside of the checkout."""

import os
import subprocess
import sys
from pathlib import Path

PACKAGES = ("aiohttp", "uvloop", "uvicorn[standard]", "func-python", "faststream[kafka,nats]")


def python() -> str:
    """The Python interpreter of that environment."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    folder = cache / "kubeirq" / "benchmark-peers"
    done = folder / ".installed"
    if not done.exists():
        print(f"installing {', '.join(PACKAGES)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
        done.touch()
    return str(folder / "bin/python")
