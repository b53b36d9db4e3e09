"""A plugin's source on a cluster: its definition and its controller come from one class."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest
from servers.controllers import Cluster, cluster, condition, holder_of, resource
from servers.function import function
from servers.kubernetes import APIServer
from servers.nats import nats_server

COPIES = """
import os

def handler(event, context):
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(event["cloudevent"]["attributes"]["subject"] + "\\n")
"""
PLUGIN = Path(__file__).resolve().parents[4] / "examples" / "plugin"


def installed(folder: Path) -> dict[str, str]:
    """The environment of a process that has the plugin, as pip would install it."""
    packages = folder / "packages"
    metadata = packages / "kubeirq_folder_source-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(PLUGIN / "folder_source.py", packages)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: kubeirq-folder-source\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[kubeirq.trigger_sources]\nFolderTrigger = folder_source:FolderTrigger\n"
    )
    return {"PYTHONPATH": str(packages)}


async def definitions(environment: dict[str, str]) -> str:
    """The output of `kubeirq crds` with the plugin installed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kubeirq", "crds", env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE
    )
    written, _ = await process.communicate()
    assert process.returncode == 0
    return written.decode()


@pytest.mark.timeout(120)
async def test_a_plugins_trigger_runs_in_one_replica_and_moves_to_the_other(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    environment, ledger, incoming = installed(tmp_path), tmp_path / "ledger", tmp_path / "in"
    incoming.mkdir()
    async with cluster(kubernetes, tmp_path) as it, nats_server() as store, function(COPIES, LEDGER=str(ledger)) as f:
        await it.server.kubectl("apply", "--server-side", "-f", "-", input=await definitions(environment))
        await it.server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        given = {**environment, "KUBEIRQ_STORE_NATS_SERVERS": store.url}
        replicas = [await it.start("trigger", "folder", replica=name, **given) for name in ("one", "two")]
        await it.apply(resource("FolderTrigger", "files", {"url": f.url, "folder": str(incoming)}))
        await it.until("foldertrigger", "files", lambda found: condition(found)["status"] == "True")
        (incoming / "first").write_text("1")
        await until_done(incoming / "done" / "first", it)
        holder = await holder_of(it, "FolderTrigger", "files")
        await next(found for found in replicas if found.environment["KUBEIRQ_REPLICA"] == holder).kill()
        (incoming / "second").write_text("2")
        await until_done(incoming / "done" / "second", it)
        assert ledger.read_text().split() == ["first", "second"]


async def until_done(file: Path, it: Cluster) -> None:
    try:
        async with asyncio.timeout(40):
            while not file.exists():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(it.logs()) from None
