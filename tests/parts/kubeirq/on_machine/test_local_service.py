"""`kubeirq serve` under systemd, and a function under the debugger."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
from servers.debugger import attached, stopped_at
from servers.fabric import fabric, manifest
from servers.ports import free_port

os.umask(UMASK := os.umask(0o077))
SOURCE = "def handler(event, context):\n    return {'version': VERSION}\n"


def resources(version: str, path: str = "/web") -> list[dict[str, Any]]:
    inline = {"inline": SOURCE.replace("VERSION", version)}
    return [manifest("Function", "f", source=inline), manifest("HTTPTrigger", "web", function="f", path=path)]


def write(folder: Path, *documents: dict[str, Any]) -> None:
    (folder / "resources.yaml").write_text("\n---\n".join(json.dumps(document) for document in documents))


async def version(port: int, path: str = "/web") -> Any:
    async with aiohttp.ClientSession() as session, session.post(f"http://127.0.0.1:{port}{path}", data=b"") as answer:
        return (await answer.json()).get("version") if answer.status == 200 else answer.status


async def until_version(wanted: Any, port: int, path: str = "/web") -> None:
    async with asyncio.timeout(20):
        while await version(port, path) != wanted:
            await asyncio.sleep(0.05)


async def test_serve_notifies_systemd_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        loop = asyncio.get_running_loop()
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        async with fabric(tmp_path / "r", tmp_path / "state", manifests=resources("1"), env=environment) as it:
            async with asyncio.timeout(20):
                assert await loop.sock_recv(manager, 100) == b"READY=1"
            assert await it.stop() == 0
            async with asyncio.timeout(5):
                assert await loop.sock_recv(manager, 100) == b"STOPPING=1"


async def test_the_files_of_the_state_folder_are_their_owners_only(tmp_path: Path) -> None:
    state, port, ledger = tmp_path / "state", free_port(), tmp_path / "ledger"
    (state / "logs" / "functions").mkdir(parents=True)
    for name in ("kubeirq.sqlite-old", "logs/kubeirq.log", "logs/functions/old.log"):  # as an earlier version made them
        (state / name).touch(0o644)
    source = f"def handler(event, context):\n    open({str(ledger)!r}, 'w').close()\n    return {{'version': 1}}\n"
    documents = [
        manifest("Function", "f", source={"inline": source}),
        manifest("HTTPTrigger", "web", function="f", path="/web"),
        manifest("HTTPTrigger", "kept", function="f", path="/kept", answer="accepted"),
        manifest("NATSTrigger", "queued", function="f", subject="a", stream="A", createStream=True),
    ]
    async with fabric(tmp_path / "r", state, http_port=port, manifests=documents):
        await until_version(1, port)
        async with aiohttp.ClientSession() as session:
            async with session.post(f"http://127.0.0.1:{port}/kept", data=b"secret") as answer:
                assert answer.status == 202
        modes = {path: path.lstat().st_mode & 0o777 for path in (state, *state.rglob("*"))}
    assert {path.name for path in modes} >= {
        "kubeirq.sqlite",
        "kubeirq.sqlite-wal",
        "nats.log",
        "kubeirq.log",
        "old.log",
    }
    assert {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    assert ledger.stat().st_mode & 0o777 == 0o666 & ~UMASK, "a function's own files have the rights that it gives them"


async def test_sighup_reloads_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "r"
    async with fabric(folder, tmp_path / "state", http_port=port, manifests=resources("1")) as it:
        await until_version(1, port)
        write(folder, *resources("2", "/other"))
        assert await version(port) == 1, "it reloads only on SIGHUP"
        assert it.process is not None
        it.process.send_signal(signal.SIGHUP)
        await until_version(2, port, "/other")
        write(folder, manifest("Function", "f", sorce={}))
        it.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while "not reloaded" not in it.log.read_text():
                await asyncio.sleep(0.02)
        assert "sorce" in it.log.read_text()
        assert await version(port, "/other") == 2


async def test_a_breakpoint_in_the_editors_file_stops_the_function_also_after_an_edit(tmp_path: Path) -> None:
    folder, port = tmp_path / "r", free_port()
    (folder / "shop").mkdir(parents=True)
    (folder / "f.py").write_text("from shop import prices\n\ndef handler(event, context):\n    return prices.one()\n")
    (folder / "shop" / "prices.py").write_text("def one():\n    price = 1\n    return {'version': price}\n")
    source = {"path": "f.py", "include": ["shop"]}
    write(folder, manifest("Function", "f", source=source), manifest("HTTPTrigger", "web", function="f", path="/web"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kubeirq", "dev", str(folder), "--state", str(tmp_path / "state"),
        "--http-port", str(port), "--debug", "f", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b"debug f: " not in (line := await process.stdout.readline()):
                assert line, "it ended"
            await until_version(1, port)
            address = line.decode().split()[-1].rpartition(":")
            await stops(folder / "f.py", 4, address, port)
            (folder / "f.py").write_text(
                "from shop import prices\ndef handler(event, context):\n    return prices.two()\n"
            )
            (folder / "shop" / "prices.py").write_text("def two():\n    price = 2\n    return {'version': price}\n")
            await until_version(2, port)
            await stops(folder / "shop" / "prices.py", 3, address, port)
    finally:
        process.terminate()
        await process.communicate()


async def stops(file: Path, line: int, address: tuple[str, str, str], port: int) -> None:
    """A call stops at the breakpoint, and goes on."""
    async with attached(address[0], int(address[2]), file, line) as editor:
        calling = asyncio.create_task(version(port))
        assert await stopped_at(editor) == (str(file), line)
        assert await calling in (1, 2)


async def test_a_function_that_cannot_be_debugged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    write(tmp_path / "r", *resources("1"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kubeirq", "dev", str(tmp_path / "r"), "--state", str(tmp_path / "state"), "--debug", "g",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert (process.returncode, output) == (1, b"kubeirq dev: --debug: no Function 'g' in these files; known: f\n")


async def test_a_function_under_the_debugger_answers_the_debugger_and_its_events(tmp_path: Path) -> None:
    folder, state, port = tmp_path / "r", tmp_path / "state", free_port()
    folder.mkdir()
    write(folder, *resources("1"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kubeirq", "dev", str(folder), "--state", str(state), "--http-port", str(port),
        "--debug", "f", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(40):
            while b"debug f: " not in (line := await process.stdout.readline()):
                assert line, "it ended"
            await until_version(1, port)
            host, _, debug_port = line.decode().split()[-1].partition(":")
            reader, writer = await asyncio.open_connection(host, int(debug_port))
            body = json.dumps({"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "x"}})
            writer.write(f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
            found = await reader.readuntil(b'"initialize"')
            assert b"Content-Length" in found
            writer.close()
            await writer.wait_closed()
    finally:
        process.terminate()
        await process.communicate()


async def test_serve_logs_failures_of_events_and_sums_up_repeats(tmp_path: Path) -> None:
    port, state = free_port(), tmp_path / "state"
    failing = {"inline": "def handler(event, context):\n    return {}['item']\n"}
    documents = [
        manifest("Function", "f", source=failing),
        manifest("HTTPTrigger", "web", function="f", path="/web"),
        manifest("HTTPTrigger", "kept", function="f", path="/kept", answer="accepted", delivery={"attempts": 1}),
    ]
    async with fabric(tmp_path / "r", state, http_port=port, manifests=documents) as it:
        async with aiohttp.ClientSession() as session:
            await until_version(500, port)
            for _ in range(2):
                assert await version(port) == 500
            async with session.post(f"http://127.0.0.1:{port}/kept", json={}) as answer:
                assert answer.status == 202
        async with asyncio.timeout(20):
            while "dead-lettered" not in it.log.read_text():
                await asyncio.sleep(0.05)
        assert await it.stop() == 0
        lines = [json.loads(line) for line in it.log.read_text().splitlines() if "event failed" in line]
    lines = [line for line in lines if line["outcome"] != "refused"]  # while the function starts
    cause = "status 500: KeyError: 'item' (f.py:2 in handler)"
    found = [(line["trigger"], line["outcome"], line["problem"], line.get("repeats")) for line in lines]
    assert found == [
        ("default/web", "answered with a failure", cause, None),
        ("default/kept", "dead-lettered", f"AttemptsExhausted: {cause}", None),
        ("default/web", "answered with a failure", cause, 2),
    ]
    assert all(line["event"] and line["function"] == "f" for line in lines)
    command = [sys.executable, "-m", "kubeirq", "logs", "kept", "--state", str(state)]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1)
    output, _ = await process.communicate()
    assert f"outcome=dead-lettered  attempt=1  problem=AttemptsExhausted: {cause}" in output.decode()
