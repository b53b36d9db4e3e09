"""Container images without a registry: the tests' own, a Debian with Python and the pause image of every pod, and the
project's, built from its Containerfiles with the former as base. Made once and kept, by what goes into them.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from servers.kubernetes_build.build import CACHE, programs

from controllers.functions.runtimes import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
RELEASE, PYTHON_VERSION = "bookworm", "3.11"
PYTHON = "localhost/python:test"
PAUSE = "localhost/pause:test"
CONTROLLERS = "localhost/kubeirq/controllers:test"
RUNTIMES = "localhost/kubeirq/runtimes:test"

ARCHIVE = "image.tar"
UNUSED_SECONDS = 3600.0  # older states of the project: removed when a new one is made
INGREDIENTS = {  # the files that the Containerfiles copy
    CONTROLLERS: (
        "images/controllers.Containerfile", "locks/build.txt", "locks/controllers.txt", "pyproject.toml", "README.md",
        "LICENSE", "kubeirq", "controllers", "trigger_sources", "runtimes",
    ),
    RUNTIMES: (
        "images/runtimes.Containerfile", "images/runtimes_folder.py", "controllers/functions/runtimes.py", "runtimes",
        *(f"locks/runtime-{runtime.name}.txt" for runtime in CATALOGUE),
    ),
}  # fmt: skip


def archives() -> list[Path]:
    """The tests' own images, as `ctr images import` reads them; made by the first caller, while others wait."""
    return [_kept(f"image-pause-{programs().name}", _make_pause) / ARCHIVE, _python()]


def project_archives() -> list[Path]:
    """The project's images, controllers and runtimes, as its files are now. Made anew in seconds for other code."""
    wheels = _wheels()
    return [_project_archive(image, wheels) for image in INGREDIENTS]


def _python() -> Path:
    said = "making the image of a Debian with Python, once: half a minute"
    return _kept(f"image-python-{RELEASE}", _make_python, said) / ARCHIVE


def _make_python(folder: Path) -> None:
    root = folder / "root.tar"
    included = "--include=python3-minimal,python3-pip,ca-certificates"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", included, RELEASE, str(root)], check=True)
    buildah = _Buildah(folder / "store")
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(root), "/")
    buildah("config", "--env=PATH=/usr/local/bin:/usr/bin:/bin", '--cmd=["python3"]', container)
    buildah("commit", "--quiet", container, f"docker-archive:{folder / ARCHIVE}:{PYTHON}")
    buildah.remove()
    root.unlink()


def _make_pause(folder: Path) -> None:
    buildah = _Buildah(folder / "store")
    container = buildah("from", "scratch")
    buildah("copy", "--quiet", container, str(programs() / "pause"), "/pause")
    buildah("config", '--entrypoint=["/pause"]', container)
    buildah("commit", "--quiet", container, f"docker-archive:{folder / ARCHIVE}:{PAUSE}")
    buildah.remove()


def _project_archive(image: str, wheels: Path) -> Path:
    name = image.split("/")[-1].split(":")[0]
    kind = f"image-{name}-"
    digest = _digest(image, wheels.name, *_files(INGREDIENTS[image]))

    def make(folder: Path) -> None:
        def pull(store: Path) -> None:
            _Buildah(store)("pull", "--quiet", f"docker-archive:{_python()}")

        # One for each set of wheels, since buildah takes a layer for the same where its line is, whatever is mounted
        said = "building the project's images, once for these dependencies: a minute"
        buildah = _Buildah(_kept(f"image-store-{wheels.name}", pull, said))
        arguments = {"BASE": PYTHON, "SMALL_BASE": PYTHON, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        buildah(
            "build", "--layers", "--isolation=chroot", "--pull-never", f"--volume={wheels}:/wheels:ro",
            *(f"--build-arg={key}={value}" for key, value in arguments.items()),
            f"--file={ROOT / 'images' / name}.Containerfile", f"--tag={image}", str(ROOT),
        )  # fmt: skip
        buildah("push", "--quiet", image, f"docker-archive:{folder / ARCHIVE}:{image}")
        _discard_unused(kind)

    return _kept(f"{kind}{digest}", make, lock="image-builds") / ARCHIVE


def _wheels() -> Path:
    """A folder of the packages in the images' locks, since builds see no network."""
    versions = {"build": PYTHON_VERSION, "controllers": PYTHON_VERSION}
    versions |= {f"runtime-{runtime.name}": runtime.name.removeprefix(runtime.language) for runtime in CATALOGUE}
    locks = {ROOT / "locks" / f"{name}.txt": version for name, version in versions.items()}

    def download(folder: Path) -> None:
        for lock, version in locks.items():
            # nkeys has no wheel: its source is kept, and the image's build checks its hash and builds it
            options = ("--no-deps", "--no-build-isolation", "--require-hashes", f"--python-version={version}")
            _pip("download", *options, f"--dest={folder}", f"--requirement={lock}")

    digest = _digest(RELEASE, PYTHON_VERSION, *(lock.read_text() for lock in locks))
    return _kept(f"wheels-{digest}", download, "downloading what the project's images are made of, once")


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


class _Buildah:
    """buildah with a storage of its own. A call gives what it wrote to standard output, and must succeed."""

    def __init__(self, store: Path) -> None:
        self.store = store
        # as containerd does in these tests; vfs would copy the whole Debian for each line of a Containerfile
        self._places = [f"--root={store / 'root'}", f"--runroot={store / 'run'}", "--storage-driver=overlay"]

    def __call__(self, *arguments: str) -> str:
        ran = subprocess.run(
            ["buildah", *self._places, *arguments],
            check=False,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, f"buildah {' '.join(arguments)}: {ran.stdout[-3000:]}{ran.stderr[-3000:]}"
        return ran.stdout.strip()

    def remove(self) -> None:
        self("rm", "--all")
        shutil.rmtree(self.store)


def _kept(name: str, make: Callable[[Path], None], announcement: str = "", lock: str = "") -> Path:
    """The folder of this name in the cache, whole; made by the first caller, while others wait."""
    finished = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{lock or name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not finished.is_dir():
            if announcement:
                print(announcement, file=sys.stderr, flush=True)
            unfinished = CACHE / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(finished)
        os.utime(finished)
    return finished


def _discard_unused(prefix: str) -> None:
    for found in CACHE.glob(f"{prefix}*"):
        if found.is_dir() and found.stat().st_mtime < time.time() - UNUSED_SECONDS:
            shutil.rmtree(found, ignore_errors=True)


def _files(names: Sequence[str]) -> Iterator[str]:
    """Paths and contents, in order, of these files and of all in these folders; not what Python compiled."""
    for name in names:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(ROOT))
                yield path.read_text()


def _digest(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(b"%d:%s" % (len(text.encode()), text.encode()))
    return digest.hexdigest()[:16]
