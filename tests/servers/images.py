"""Container images without a registry: a Debian with Python, and the pause image of every pod; made once and kept."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

from servers.kubernetes_build.build import CACHE, programs

RELEASE = "bookworm"
PYTHON = "localhost/python:test"
PAUSE = "localhost/pause:test"


def archives() -> list[Path]:
    """The images' archives, as `ctr images import` reads them; made by the first caller, while others wait."""
    finished = CACHE / f"images-{RELEASE}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{finished.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.is_dir():
            print("making the container images of the tests, once: half a minute", file=sys.stderr, flush=True)
            unfinished = CACHE / f"{finished.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            _make(unfinished)
            unfinished.rename(finished)
    return [finished / "pause.tar", finished / "python.tar"]


def _make(folder: Path) -> None:
    root = folder / "root.tar"
    included = "--include=python3-minimal,python3-pip,ca-certificates"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", included, RELEASE, str(root)], check=True)
    store = folder / "store"

    def buildah(*arguments: str) -> str:
        places = [f"--root={store / 'root'}", f"--runroot={store / 'run'}", "--storage-driver=vfs"]
        ran = subprocess.run(["buildah", *places, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        return ran.stdout.strip()

    python = buildah("from", "scratch")
    buildah("add", "--quiet", python, str(root), "/")
    buildah("config", "--env=PATH=/usr/local/bin:/usr/bin:/bin", '--cmd=["python3"]', python)
    buildah("commit", "--quiet", python, f"docker-archive:{folder / 'python.tar'}:{PYTHON}")
    pause = buildah("from", "scratch")
    buildah("copy", "--quiet", pause, str(programs() / "pause"), "/pause")
    buildah("config", '--entrypoint=["/pause"]', pause)
    buildah("commit", "--quiet", pause, f"docker-archive:{folder / 'pause.tar'}:{PAUSE}")
    shutil.rmtree(store)
    root.unlink()
