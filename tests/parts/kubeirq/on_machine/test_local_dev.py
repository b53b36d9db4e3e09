"""`kubeirq dev` and `serve` as processes: started, changed, killed, stopped."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from click.testing import CliRunner

from kubeirq.__main__ import commands

ORDERS = Path(__file__).parents[4] / "examples" / "orders"

HANDLER = """
import os, time
def handler(event, context):
    time.sleep(float(os.environ.get("SLEEP", "0")))
    with open(os.environ["LEDGER"], "a") as file:
        file.write(f"VERSION {event['data']['n']}\\n")
"""


async def test_a_change_of_the_code_runs_within_two_seconds_and_a_bad_manifest_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "1")
    async with fabric(tmp_path) as it:
        await it.delivered(1, "1")
        write(tmp_path, "2")
        await asyncio.sleep(2)  # the promise that this test checks
        await it.delivered(2, "2")
        (tmp_path / "web.yaml").write_text(
            "apiVersion: kubeirq.dev/v1\nkind: HTTPTrigger\nmetadata: {name: web}\nspec: {pth: x}\n"
        )
        await it.says("not reloaded; the version before still runs")
        await it.delivered(3, "2")


async def test_a_refused_reload_shows_in_other_terminals_until_the_files_are_right(tmp_path: Path) -> None:
    write(tmp_path, "1")
    async with fabric(tmp_path) as it:
        await it.delivered(1, "1")
        (tmp_path / "web.yaml").write_text(
            "apiVersion: kubeirq.dev/v1\nkind: HTTPTrigger\nmetadata: {name: web}\nspec: {pth: x}\n"
        )
        await until(lambda: it.found["refusedReload"] is not None, ask=it.refresh)
        for command in (("get",), ("describe", "web"), ("describe", "one-of-the-new-files")):
            told = await it.ran(*command)
            head = r"the files changed at [0-9:]{8}, \d+ seconds? ago, and cannot run; the version before still runs:\n"
            assert re.search(head, told), told
            assert f"{tmp_path}/web.yaml:4: spec.pth: unknown field" in told
        write(tmp_path, "1")
        await until(lambda: it.found["refusedReload"] is None, ask=it.refresh)


async def test_kill_minus_nine_leaves_no_process_and_the_next_start_delivers_the_rest(tmp_path: Path) -> None:
    write(tmp_path, "1", sleep="0.2")
    async with fabric(tmp_path) as it:
        for number in range(10):
            await it.post(number)
        await until(lambda: len(it.ledger()) > 1)
        children = psutil.Process(it.pid).children(recursive=True)
        assert children
        it.process.kill()
        await it.process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, 5)
        assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
        before = len(it.ledger())
        assert before < 10
    write(tmp_path, "1")
    async with fabric(tmp_path) as it:
        await until(lambda: {number for _, number in it.ledger()} == set(range(10)))


async def test_ctrl_c_lets_calls_in_progress_finish(tmp_path: Path) -> None:
    write(tmp_path, "1", sleep="1")
    async with fabric(tmp_path) as it:
        await it.post(1)
        await until(lambda: it.status_of("web")["inFlight"] == 1, ask=it.refresh)
        it.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(15):
            assert await it.process.wait() == 0
        assert it.ledger() == [("1", 1)]
        assert not (tmp_path / ".state" / "admin.sock").exists()


async def test_a_second_fabric_on_the_same_state_is_refused_and_one_with_its_own_is_not(tmp_path: Path) -> None:
    write(tmp_path, "1")
    async with fabric(tmp_path) as it:
        second = await start(tmp_path, tmp_path / ".state")
        assert await second.wait() == 1
        assert second.stdout is not None
        output = (await second.stdout.read()).decode()
        assert f"pid {it.pid}" in output and "--state" in output
        async with fabric(tmp_path, "other") as other:
            await other.delivered(1, "1")


async def test_serve_exposes_metrics_and_readiness_and_stops_on_sigterm(tmp_path: Path) -> None:
    write(tmp_path, "1")
    async with fabric(tmp_path, how="serve") as it:
        await it.delivered(1, "1")
        lines = [json.loads(line) for line in it.lines if line.startswith("{")]
        address = next(line["metrics"] for line in lines if line["message"] == "fabric is running")
        labels = 'kind="HTTPTrigger",namespace="default",trigger="web",function="f"'
        async with aiohttp.ClientSession() as session, asyncio.timeout(10):
            text = ""
            while f"kubeirq_events_delivered_total{{{labels}}} 1" not in text:  # counted once its answer is there
                async with session.get(f"{address}/metrics") as answer:
                    text = await answer.text()
            async with session.get(f"{address}/readyz") as answer:
                assert answer.status == 200
        it.process.terminate()
        async with asyncio.timeout(15):
            assert await it.process.wait() == 0


@pytest.mark.timeout(120)
async def test_the_orders_example_flows_from_http_and_cron_through_kafka_and_nats(tmp_path: Path) -> None:
    shutil.copytree(ORDERS, tmp_path / "orders")
    async with fabric(tmp_path / "orders") as it:
        await it.says("curl ")
        async with aiohttp.ClientSession() as session:
            order = {"item": "tea", "quantity": 3, "customer": "Ada"}
            async with session.post(f"{it.http}/orders", json=order) as answer:
                assert answer.status == 202
        await it.says("dear Ada: 3 x tea, that is 12 euros", 60)
        await it.says("dear regular:", 60)


@pytest.mark.timeout(180)
async def test_orders_accepted_between_kills_all_reach_the_customer(tmp_path: Path) -> None:
    folder, notified = tmp_path / "orders", tmp_path / "notified.txt"
    shutil.copytree(ORDERS, folder)
    writing = (
        f"def customer(event, context):\n    open({str(notified)!r}, 'a').write(event['data']['customer'] + '\\n')\n"
    )
    (folder / "notify.py").write_text(writing)
    accepted: set[str] = set()
    for round_ in range(3):
        async with fabric(folder) as it, aiohttp.ClientSession() as session:
            for number in range(40):
                order = {"item": "tea", "customer": f"{round_}-{number}"}
                async with session.post(f"{it.http}/orders", json=order) as answer:
                    assert answer.status == 202
                accepted.add(order["customer"])
            it.process.kill()
            await it.process.wait()
    async with fabric(folder):
        await until(lambda: notified.exists() and accepted <= set(notified.read_text().split()), 90)


class Running:
    def __init__(self, folder: Path, state: Path, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.state = state
        self.process = process
        self.lines: list[str] = []
        self.found: Any = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def http(self) -> str:
        return str(self.found["addresses"]["http"])

    def ledger(self) -> list[tuple[str, int]]:
        file = self.folder / "ledger.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(version, int(number)) for version, number in (line.split() for line in lines)]

    def status_of(self, trigger: str) -> Any:
        return next(found for found in self.found["triggers"] if found["name"] == trigger)

    async def refresh(self) -> None:
        connector = aiohttp.UnixConnector(path=str(self.state / "admin.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get("http://admin/v1/status") as answer:
                self.found = await answer.json()

    async def ran(self, *command: str) -> str:
        """The output of a command about this fabric."""
        words = [*command, "--state", str(self.state)]
        return (await asyncio.to_thread(CliRunner().invoke, commands, words)).output

    async def post(self, number: int) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{self.http}/web", json={"n": number}) as answer:
                assert answer.status == 202

    async def delivered(self, number: int, version: str) -> None:
        await self.post(number)
        await until(lambda: (version, number) in self.ledger())

    async def says(self, text: str, seconds: float = 20) -> None:
        await until(lambda: any(text in line for line in self.lines), seconds)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())


@asynccontextmanager
async def fabric(folder: Path, state: str = "state", how: str = "dev") -> AsyncIterator[Running]:
    process = await start(folder, folder / f".{state}", how)
    it = Running(folder, folder / f".{state}", process)
    reading = asyncio.create_task(it.read())
    try:
        async with asyncio.timeout(30):
            while it.found is None or not it.found["triggers"]:
                assert process.returncode is None, "\n".join(it.lines)
                try:
                    await it.refresh()
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)
        yield it
    except BaseException:
        print("\n".join(it.lines))
        raise
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(15):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        await reading


async def start(folder: Path, state: Path, how: str = "dev") -> asyncio.subprocess.Process:
    ports = ["--http-port", "0", *(["--metrics-port", "0"] if how == "serve" else [])]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kubeirq", how, str(folder), "--state", str(state), *ports,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip


def write(folder: Path, version: str, sleep: str = "0") -> None:
    (folder / "f.py").write_text(HANDLER.replace("VERSION", version))
    environment = [{"name": "LEDGER", "value": str(folder / "ledger.txt")}, {"name": "SLEEP", "value": sleep}]
    resources = [
        manifest("Function", "f", handler="f.handler", source={"path": "f.py"}, env=environment),
        manifest("HTTPTrigger", "web", function="f", path="/web", answer="accepted"),
    ]
    for name, resource in zip(("f.yaml", "web.yaml"), resources, strict=True):
        (folder / name).write_text(json.dumps(resource))


def manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "kubeirq.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


async def until(holds: Callable[[], Any], seconds: float = 20, ask: Callable[[], Any] | None = None) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.03)
            if ask is not None:
                await ask()
