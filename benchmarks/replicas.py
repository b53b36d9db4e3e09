"""Replicas of the controllers under test, as processes with logins of their own, and what they cost."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from benchmarks.measure import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from servers.kubernetes import MORTAL, APIServer
from servers.ports import free_port

SYSTEM = "kubeirq-system"
NAMES = ("one", "two")
START_SECONDS = 600.0


@dataclass
class Replica:
    """One process. `login` is its user at the API server."""

    login: str
    log: Path
    process: asyncio.subprocess.Process
    port: int
    gateway_port: int
    started_at: float
    start_seconds: float = 0.0  # until it was ready

    @property
    def resting_mib(self) -> float:
        return self._memory("VmRSS")

    @property
    def peak_mib(self) -> float:
        """Since the process started."""
        return self._memory("VmHWM")

    def _memory(self, name: str) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        raise SystemExit(f"{self.login} has ended:\n{self.log.read_text()[-2_000:]}")

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def until_ready(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                if self.process.returncode is not None or time.monotonic() - self.started_at > START_SECONDS:
                    raise SystemExit(f"{self.login} is not ready:\n{self.log.read_text()[-2_000:]}")
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"http://127.0.0.1:{self.port}/readyz") as answer:
                        if answer.status == 200:
                            self.start_seconds = time.monotonic() - self.started_at
                            return
                await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Place:
    """The cluster, the checkout under test, and the folder of the logs."""

    server: APIServer
    checkout: Path
    folder: Path

    @property
    def python(self) -> str:
        own = self.checkout / ".venv" / "bin" / "python"
        return str(own) if self.checkout != ROOT else sys.executable

    def definitions(self) -> str:
        """The checkout's CustomResourceDefinitions."""
        command = [self.python, "-m", "kubeirq", "crds"]
        return subprocess.run(command, cwd=self.checkout, check=True, capture_output=True, text=True).stdout


@asynccontextmanager
async def replicas(
    place: Place, *command: str, names: Sequence[str] = NAMES, **environment: str
) -> AsyncIterator[list[Replica]]:
    """Runs a replica for each name, and kills them at the end. They have started when they are ready."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(_replica(place, name, command, environment)) for name in names]
        await asyncio.gather(*(replica.until_ready() for replica in found))
        yield found


@asynccontextmanager
async def _replica(
    place: Place, name: str, command: Sequence[str], environment: dict[str, str]
) -> AsyncIterator[Replica]:
    login = "-".join((*command, name))
    log, port, gateway_port = place.folder / f"{login}.log", free_port(), free_port()
    given = {
        **os.environ,
        "KUBECONFIG": str(await place.server.kubeconfig_of(login, "system:masters")),
        "KUBEIRQ_NAMESPACE": SYSTEM,
        "KUBEIRQ_REPLICA": login,
        "KUBEIRQ_PORT": str(port),
        "KUBEIRQ_GATEWAY_PORT": str(gateway_port),
        "KUBEIRQ_RUNTIME_IMAGE": "runtimes:1",
        "KUBEIRQ_REACH_ALLOW": "127.0.0.0/8",  # the servers that the triggers read from are on this machine
        **environment,
    }
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *MORTAL, place.python, "-m", "controllers", *command, stdout=out, stderr=out, cwd=place.checkout, env=given
        )
    try:
        yield Replica(login, log, process, port, gateway_port, time.monotonic())
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass(frozen=True)
class Request:
    """A request that is over. `name` is its verb and resource. Times are seconds since the epoch."""

    user: str
    name: str
    object: str
    received: float
    answered: float

    @property
    def seconds(self) -> float:
        """How long the API server took."""
        return self.answered - self.received


class Requests:
    """The requests to the API server, from its audit log. Reads each line once."""

    def __init__(self, server: APIServer) -> None:
        self._log = server.folder / "audit.log"
        self._offset = 0

    def skip(self) -> None:
        """Forgets the requests until now."""
        self._offset = self._log.stat().st_size

    def new(self) -> list[Request]:
        """The requests since the last call. Watches are reported when they end."""
        with self._log.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [_request_of(json.loads(line)) for line in whole.splitlines()]


def _request_of(event: dict[str, Any]) -> Request:
    about = event.get("objectRef", {})
    name = about.get("resource") or urlsplit(event["requestURI"]).path
    if "subresource" in about:
        name = f"{name}/{about['subresource']}"
    received, answered = (
        datetime.fromisoformat(event[key]).timestamp() for key in ("requestReceivedTimestamp", "stageTimestamp")
    )
    return Request(event["user"]["username"], f"{event['verb']} {name}", about.get("name", ""), received, answered)
