"""The cron of Kubernetes' CronJobs, robfig/cron, as a program that answers when an expression fires.

It is built once from its Go module, and kept outside the checkout.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zoneinfo import TZPATH

import tzdata
from servers.kubernetes_build.build import CACHE, once

SOURCE = Path(__file__).resolve().parent / "cron_build"


@dataclass(frozen=True)
class Question:
    """The first `count` times after `after`, in seconds since the epoch."""

    expression: str
    zone: str
    after: int
    count: int
    seconds: bool = False  # six fields with the seconds first, which Kubernetes refuses


@dataclass(frozen=True)
class Answer:
    error: str  # empty for a valid expression
    times: Sequence[int]


def ask(questions: Iterable[Question]) -> Sequence[Answer]:
    """The answer to each question. Both sides read the same time zones."""
    zones = next((path for path in TZPATH if (Path(path) / "Europe/Berlin").exists()), None)
    folder = zones or str(Path(tzdata.__file__).parent / "zoneinfo")
    asked = "".join(json.dumps(asdict(question)) + "\n" for question in questions)
    environment = {**os.environ, "ZONEINFO": folder}
    said = subprocess.run(
        [program()], input=asked, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60
    ).stdout
    found = map(json.loads, said.splitlines())
    return [Answer(answer["error"], answer["times"] or ()) for answer in found]


def program() -> Path:
    """The program, built by the first caller."""
    source = b"".join((SOURCE / name).read_bytes() for name in ("go.mod", "main.go"))
    finished = CACHE / f"cron-{hashlib.sha256(source).hexdigest()[:12]}"
    return once(finished, _build, "building Kubernetes' cron, once") / "nexttimes"


def _build(folder: Path) -> None:
    command = ["go", "build", "-buildvcs=false", "-o", str(folder / "nexttimes"), "."]
    subprocess.run(command, cwd=SOURCE, check=True)
