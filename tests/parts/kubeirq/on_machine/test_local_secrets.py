"""A changed Secret or ConfigMap reaches running triggers and functions on one machine."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from servers.fabric import manifest
from servers.ports import free_port

SOURCE = """
import os
def handler(event, context):
    return [os.environ["PASSWORD"], os.environ["COLOUR"]]
"""


def write(folder: Path, token: str, colour: str, *, in_documents: bool) -> None:
    variables = [
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "tok", "key": "t"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "look", "key": "colour"}}},
    ]
    auth = {"bearer": {"tokens": [{"name": "tok", "key": "t"}]}}
    documents: list[dict[str, Any]] = [
        manifest("Function", "f", source={"inline": SOURCE}, env=variables),
        manifest("HTTPTrigger", "web", function="f", path="/web", auth=auth),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "look"}, "data": {"colour": colour}},
    ]
    if in_documents:
        documents.append(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tok"}, "stringData": {"t": token}}
        )
    else:
        (folder / "secrets" / "tok").mkdir(parents=True, exist_ok=True)
        (folder / "secrets" / "tok" / "t").write_text(token + "\n")
    (folder / "app.yaml").write_text("\n---\n".join(json.dumps(document) for document in documents))


@asynccontextmanager
async def running(command: str, folder: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    options = ["--state", str(folder / ".state"), "--http-port", str(port)]
    options += ["--metrics-port", "0"] if command == "serve" else []
    options += ["--secrets", str(folder / "secrets")] if (folder / "secrets").exists() else []
    with (folder / "log.txt").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kubeirq", command, str(folder / "app.yaml"), *options,
            stdout=log, stderr=log, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answer(port: int, token: str) -> Any:
    """The function's answer, or the status if the token is refused or nothing answers yet."""
    headers = {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(f"http://127.0.0.1:{port}/web", headers=headers, data=b"1") as found:
                return await found.json() if found.status == 200 else found.status
        except aiohttp.ClientConnectionError:
            return None


async def until_answer(port: int, token: str, wanted: Any) -> None:
    async with asyncio.timeout(30):
        while await answer(port, token) != wanted:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("in_documents", [True, False], ids=["documents", "folder"])
@pytest.mark.parametrize("command", ["dev", "serve"])
async def test_a_changed_secret_reaches_triggers_and_functions(
    command: str, in_documents: bool, tmp_path: Path
) -> None:
    port = free_port()
    write(tmp_path, "first", "red", in_documents=in_documents)
    async with running(command, tmp_path, port) as process:
        await until_answer(port, "first", ["first", "red"])
        assert await answer(port, "second") == 401
        write(tmp_path, "second", "blue", in_documents=in_documents)
        if command == "serve":
            assert await answer(port, "first") == ["first", "red"], "it reads files only on SIGHUP"
            process.send_signal(signal.SIGHUP)
        await until_answer(port, "second", ["second", "blue"])
        assert await answer(port, "first") == 401
