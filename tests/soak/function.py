"""The function that the soak calls: it records each call durably, and fails, hangs or dies on command."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HANG_SECONDS = 12  # longer than a call may take
TIMEOUT_SECONDS = 8
FUNCTION_CONCURRENCY = 8

# The file of commands counts for all calls; `does` in an event's data is for this event, and counts once
SOURCE = """
import json, os, time

record = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
VERSION = 1


def commands():
    try:
        with open(os.environ["COMMANDS"]) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def first_time(event):
    try:
        os.close(os.open(f"{os.environ['COMMANDS']}-{event.replace('/', '-')}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def handler(event, context):
    data, commanded = event["data"], commands()
    sent = data.get("id") or event["event-id"].rpartition("/")[2]
    if "answer" in commanded:
        return "on command", commanded["answer"], {"retry-after": "1"}
    does = data.get("does")
    if does == "poison" and not commanded.get("mended"):
        return "poison", 400
    if does == "die" and first_time(sent):
        os._exit(9)
    if does == "hang" and first_time(sent):
        time.sleep(HANG_SECONDS)
        return "hung", 500
    line = {"flow": data["flow"], "id": sent, "at": time.time(), "attempt": context["attempt"]}
    os.write(record, json.dumps(line).encode() + b"\\n")
    os.fsync(record)
""".replace("HANG_SECONDS", str(HANG_SECONDS))


def version(number: int) -> str:
    """The function's source, as a new version."""
    return SOURCE.replace("VERSION = 1", f"VERSION = {number}")


BROKEN = "raise RuntimeError('this version does not start')\n"


@dataclass(frozen=True)
class Call:
    flow: str
    id: str
    at: float  # seconds since the epoch
    attempt: int


class Record:
    """The calls that the function has recorded, read as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def news(self) -> list[Call]:
        """The calls since the last time. A line that is being written comes the next time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        return [Call(**json.loads(line)) for line in whole.splitlines()]


class Commands:
    """The commands that count for all calls."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def give(self, commands: Mapping[str, object]) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(commands))
        fresh.replace(self._path)
