"""`kubeirq serve` as a process of its own, to be killed, stopped and started again."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families


def repeatable_in(metrics: str, **labels: str) -> int | None:
    """How many events a kill repeats at most: those that run, and settled ones in doubt. None without such a source."""
    families = text_string_to_metric_families(metrics)
    samples = [one for family in families for one in family.samples if labels.items() <= one.labels.items()]
    running = [one.value for one in samples if one.labels.get("state") in ("running", "settling")]
    uncommitted = [one.value for one in samples if one.name == "kubeirq_uncommitted_events"]
    return int(sum(running) + sum(uncommitted)) if uncommitted else None


@dataclass
class Fabric:
    """One fabric on a folder of manifests, with the gateway on `http_port`. A port of 0 is a free one."""

    folder: Path
    state: Path
    http_port: int
    env: Mapping[str, str] = field(default_factory=dict)
    metrics_port: int = 0
    process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> Path:
        return self.state.with_suffix(".log")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        """Returns once its admin API answers."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "kubeirq", "serve", str(self.folder), "--state", str(self.state),
                "--http-port", str(self.http_port), "--metrics-port", str(self.metrics_port),
                stdout=log, stderr=log, env={**os.environ, **self.env},
            )  # fmt: skip
        async with asyncio.timeout(60):
            while True:
                if self.process.returncode is not None:
                    raise RuntimeError(
                        f"kubeirq serve ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}"
                    )
                try:
                    await self.status()
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)
                else:
                    return

    async def kill(self) -> None:
        """As a crash: SIGKILL, nothing is finished."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(how)
            try:
                await asyncio.wait_for(self.process.wait(), 60)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
                raise
        code = self.process.returncode
        assert code is not None
        return code

    async def status(self) -> Any:
        return await self.ask_json("GET", "/v1/status")

    async def ask_json(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads(await self.ask(method, path, body))

    async def trigger(self, name: str) -> Any:
        """That trigger's part of the status."""
        return next(found for found in (await self.status())["triggers"] if found["name"] == name)

    async def may_come_again(self) -> int:
        """How many events a kill repeats at most, as the metrics say: those that run, and settled ones in doubt."""
        found = repeatable_in(await self._metrics())
        assert found is not None, "the source does not say it"
        return found

    async def metric(self, name: str) -> float:
        """The sum of a metric's values."""
        families = text_string_to_metric_families(await self._metrics())
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    async def _metrics(self) -> str:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
                return await answer.text()

    async def ask(self, method: str, path: str, body: Any = None) -> str:
        connector = aiohttp.UnixConnector(path=str(self.state / "admin.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.request(method, f"http://admin{path}", json=body) as answer:
                text = await answer.text()
                assert answer.status < 400, f"{method} {path}: {answer.status} {text}"
                return text


@asynccontextmanager
async def fabric(
    folder: Path,
    state: Path,
    *,
    http_port: int = 0,
    manifests: Sequence[Mapping[str, Any]] = (),
    env: Mapping[str, str] | None = None,
    metrics_port: int = 0,
) -> AsyncIterator[Fabric]:
    """A running fabric; `manifests` are written to the folder first. Stopped by pid at the end, whatever happened."""
    folder.mkdir(exist_ok=True, parents=True)
    if manifests:
        # JSON is YAML
        (folder / "resources.yaml").write_text("\n---\n".join(json.dumps(manifest) for manifest in manifests))
    found = Fabric(folder, state, http_port, env or {}, metrics_port)
    try:
        await found.start()
        yield found
    finally:
        if found.process is not None and found.process.returncode is None:
            found.process.kill()
            await found.process.wait()


def manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "kubeirq.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
