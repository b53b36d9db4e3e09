"""The runtime as it is copied into an image: a folder, and nothing of the rest of the project."""

import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from servers import function as server_of_functions
from servers.function import Function, function

from runtimes.python import kubeirq_runtime

FILES = Path(kubeirq_runtime.__path__[0])


async def answer_of(found: Function) -> Any:
    async with aiohttp.ClientSession() as session, session.post(found.url, json={}) as answer:
        return await answer.json()


async def test_a_copy_of_the_folder_serves_and_imports_nothing_else_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(FILES.parent, tmp_path / "runtime")
    monkeypatch.setattr(server_of_functions, "SERVER", copy / "server.py")
    source = """
import sys
def handler(event, context):
    return {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
"""
    async with function(source) as found:
        files = await answer_of(found)
    assert files["kubeirq_runtime.connection"] == str(copy / "kubeirq_runtime" / "connection.py")
    assert {"kubeirq", "controllers", "trigger_sources", "runtimes"}.isdisjoint(files)


async def test_no_file_of_the_runtime_takes_a_name_that_a_function_may_have() -> None:
    names = sorted(file.stem for file in FILES.glob("*.py") if file.stem != "__init__")
    source = f"""
from importlib.util import find_spec
def handler(event, context):
    return [name for name in {names!r} if find_spec(name) is not None]
"""
    async with function(source) as found:
        assert await answer_of(found) == []


async def test_it_starts_where_python_leaves_the_folder_of_the_script_out_of_the_path() -> None:
    async with function("def handler(event, context):\n    return [1]", PYTHONSAFEPATH="1") as found:
        assert await answer_of(found) == [1]


@pytest.mark.parametrize(
    "name", ["email", "json", "time", "signal", "calendar", "queue", "resource", "token", "logging"]
)
async def test_a_function_may_have_the_name_of_a_standard_module(name: str) -> None:
    code = f"""
import json, logging, urllib.request
import {name} as library

def startup(context):
    context["state"]["started"] = True

def handler(event, context):
    import http.client, {name}
    return {{"file": {name} is library and hasattr({name}, "handler"), "started": context["state"]["started"]}}
"""
    async with function(code, f"{name}.handler", file=f"{name}.py", FUNC_STARTUP=f"{name}.startup") as found:
        async with aiohttp.ClientSession() as session, session.post(found.url, json={}) as answer:
            assert (answer.status, await answer.json()) == (200, {"file": False, "started": True}), found.output()
