"""Function processes: restarted when they die, replaced without a gap, with limited output."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from kubeirq.on_machine.function_process import FunctionProcess
from kubeirq.on_machine.program_runner import Program
from kubeirq.output.function_log_lines import LogLine
from trigger_sources.dispatch.gate import Gate

# A minimal runtime: a port, /healthz, and an answer. Each test replaces BEHAVIOUR with its own code.
SERVER = """
import http.server, os, select, signal, sys, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(b"")
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.answer(on_call(body))
    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("kubeirq-concurrency", "7")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

def on_call(body):
    return os.environ["VERSION"].encode()

BEHAVIOUR
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["FUNC_PORT"])), Handler)
server.daemon_threads = False  # finishes calls in progress
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
while select.select([server.socket], [], [], 0.1)[0]:  # answers clients that have connected already
    server.handle_request()
server.server_close()
"""


async def test_a_ready_process_opens_its_gate_and_declares_its_concurrency(tmp_path: Path) -> None:
    async with function() as (process, _):
        assert process.gate.is_down
        process.run(program(tmp_path, "one"))
        await until(lambda: process.state == "Ready")
        assert not process.gate.is_down
        assert process.gate.concurrency == 7
        assert process.gate.url == process.address + "/"
        assert await call(process) == "one"


async def test_a_killed_process_is_restarted_and_its_gate_is_closed_meanwhile(tmp_path: Path) -> None:
    async with function() as (process, _):
        process.run(program(tmp_path, "one"))
        await until(lambda: process.state == "Ready")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: process.state == "Down")
        assert process.gate.is_down and not process.gate.may_probe
        assert "SIGKILL" in process.last_error
        await until(lambda: process.state == "Ready")
        assert await call(process) == "one"
        assert process.restarts == 1


async def test_a_process_that_cannot_start_is_retried_at_growing_intervals(tmp_path: Path) -> None:
    async with function() as (process, lines):
        process.run(program(tmp_path, "one", "raise SystemExit('no database')"))
        started = asyncio.get_running_loop().time()
        await until(lambda: process.restarts == 4)
        assert asyncio.get_running_loop().time() - started > 0.2 + 0.4 + 0.8
        assert process.state == "Failing"
        assert process.last_error.endswith("exit status 1: no database")
        assert LogLine("f", "no database") in lines


async def test_a_new_version_takes_over_without_a_call_being_refused(tmp_path: Path) -> None:
    async with function() as (process, _):
        process.run(program(tmp_path, "0"))
        await until(lambda: process.state == "Ready")
        answers: list[str] = []
        done = asyncio.Event()

        async def keep_calling() -> None:
            while not done.is_set():
                answers.append(await call(process))

        async with asyncio.TaskGroup() as tasks:  # a call that fails ends the test at once
            tasks.create_task(keep_calling())
            for version in ("1", "2", "3"):
                process.run(program(tmp_path, version))
                await until(lambda version=version: answers[-1:] == [version])
            done.set()
        assert answers == sorted(answers) and set(answers) == {"0", "1", "2", "3"}
        assert process.restarts == 0


async def test_a_new_version_that_does_not_start_leaves_the_old_one_serving(tmp_path: Path) -> None:
    async with function() as (process, _):
        process.run(program(tmp_path, "old"))
        await until(lambda: process.state == "Ready")
        process.run(program(tmp_path, "broken", "this is no python"))
        await until(lambda: process.state == "Failing")
        assert "the old version still runs" in process.last_error and "SyntaxError" in process.last_error
        assert not process.gate.is_down and await call(process) == "old"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)  # the old version is also the one that is restarted
        await until(lambda: process.gate.is_down)
        await until(lambda: not process.gate.is_down)
        assert process.state == "Failing" and await call(process) == "old"
        process.run(program(tmp_path, "new"))
        await until(lambda: process.state == "Ready")
        assert await call(process) == "new" and process.last_error == ""


async def test_a_new_version_that_never_becomes_ready_is_abandoned(tmp_path: Path) -> None:
    async with function() as (process, _):
        process.run(program(tmp_path, "old"))
        await until(lambda: process.state == "Ready")
        process.run(program(tmp_path, "slow", "time.sleep(3600)", ready_seconds=0.3))
        await until(lambda: process.state == "Failing")
        assert "not ready after 0.3 s" in process.last_error and await call(process) == "old"


async def test_printing_a_hundred_megabytes_neither_eats_memory_nor_stalls_calls(tmp_path: Path) -> None:
    noisy = """
def on_call(body):
    if body == b"print":
        line = "x" * 99 + "\\n"
        for _ in range(100):
            sys.stdout.write(line * 10_000)
        sys.stdout.write("y" * 1_000_000 + "\\n")
    return b"done"
"""
    async with function() as (process, lines):
        process.run(program(tmp_path, "one", noisy))
        await until(lambda: process.state == "Ready")
        before = psutil.Process().memory_info().rss
        printing = asyncio.create_task(call(process, b"print"))
        slowest = 0.0
        while not printing.done():
            at = asyncio.get_running_loop().time()
            await call(process)
            slowest = max(slowest, asyncio.get_running_loop().time() - at)
            await asyncio.sleep(0.01)
        assert await printing == "done"
        await until(lambda: any(line.left_out for line in lines) and not owed(lines))
        assert slowest < 1
        assert psutil.Process().memory_info().rss - before < 40_000_000
        assert len(lines) < 3_000
        assert shown(lines) + left_out(lines) == 1_000_001


async def test_stopping_also_ends_the_functions_child_processes(tmp_path: Path) -> None:
    child = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    async with function() as (process, lines):
        process.run(program(tmp_path, "one", child))
        await until(lambda: process.state == "Ready" and len(lines) > 0)
        pid = int(lines[0].text)
        assert psutil.pid_exists(pid)
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


@asynccontextmanager
async def function() -> AsyncIterator[tuple[FunctionProcess, list[LogLine]]]:
    lines: list[LogLine] = []
    gate = Gate("f", "http://127.0.0.1:9/")
    process = FunctionProcess("f", gate, lines.append)
    try:
        yield process, lines
    finally:
        await process.stop()
        await gate.aclose()


def program(folder: Path, version: str, behaviour: str = "", ready_seconds: float = 20) -> Program:
    file = folder / f"server-{version}.py"
    file.write_text(SERVER.replace("BEHAVIOUR", behaviour))
    environment = {"VERSION": version, "PATH": os.environ["PATH"]}
    return Program((sys.executable, str(file)), folder, environment, None, ready_seconds, stop_seconds=2)


async def call(process: FunctionProcess, body: bytes = b"") -> str:
    async with aiohttp.ClientSession() as session, session.post(process.gate.url, data=body) as answer:
        return await answer.text()


def shown(lines: list[LogLine]) -> int:
    return sum(not line.left_out for line in lines)


def left_out(lines: list[LogLine]) -> int:
    return sum(int(line.text.split()[1]) for line in lines if line.left_out)


def owed(lines: list[LogLine]) -> bool:
    return shown(lines) + left_out(lines) < 1_000_001


async def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)
