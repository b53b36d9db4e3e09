"""The command line on a real cluster, with pods, the API server's proxy, logs and exec."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers import kafka
from servers.cluster import RELEASE, Cluster, Namespace

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]

CODE = """
from shop.prices import TAX

class No(Exception):
    status = 422

def handler(event, context):
    print("sees", event["data"], flush=True)
    if event["data"]["n"] % 2:
        raise No("odd")
    return {"tax": TAX}
"""
APP = """
apiVersion: kubeirq.dev/v1
kind: Function
metadata: {name: tax}
spec: {source: {path: code}, runtime: python3.11, handler: main.handler, scale: {min: 2}}
---
apiVersion: kubeirq.dev/v1
kind: KafkaTrigger
metadata: {name: orders}
spec: {function: tax, topics: [TOPIC]}
"""


@dataclass
class Result:
    """The result of a command."""

    code: int
    output: str
    errors: str

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.output}\n{self.errors}"


@dataclass
class Terminal:
    """Runs `kubeirq` in a folder, with a kubeconfig and in a namespace."""

    folder: Path
    kubeconfig: Path
    namespace: str

    async def __call__(self, *arguments: str) -> Result:
        async with self.started(*arguments) as process:
            async with asyncio.timeout(200):
                output, errors = await process.communicate()
        assert process.returncode is not None
        return Result(process.returncode, output.decode(), errors.decode())

    @asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kubeirq", *arguments, "-n", self.namespace,
            cwd=self.folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def terminal(place: Namespace, folder: Path, kubeconfig: Path | None = None) -> Terminal:
    (folder / "code" / "shop").mkdir(parents=True)
    (folder / "code" / "main.py").write_text(CODE)
    (folder / "code" / "shop" / "prices.py").write_text("TAX = 19\n")
    (folder / "app.yaml").write_text(APP.replace("TOPIC", f"{place.name}-orders"))
    return Terminal(folder, kubeconfig or place.cluster.node.kubeconfig, place.name)


async def until(command: Any, holds: Any, seconds: float = 60) -> Result:
    """Repeats the command until its result meets the condition, and returns that result."""
    found = None
    try:
        async with asyncio.timeout(seconds):
            while not holds(found := await command()):
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"not in {seconds:g} s: {found}") from None
    return found


async def test_a_folder_is_deployed_called_and_inspected_and_its_dead_letters_are_managed(
    place: Namespace, cluster: Cluster, tmp_path: Path
):
    kubeirq = terminal(place, tmp_path)
    topic = f"{place.name}-orders"
    await kafka.create_topic(cluster.kafka, topic)
    result = await kubeirq("deploy", "app.yaml")
    assert result.code == 0, result
    assert result.output.splitlines()[-1] == "2 objects applied and Ready"

    result = await kubeirq("call", "tax", "-d", '{"n": 2}')
    assert (result.code, json.loads(result.output)) == (0, {"tax": 19}), result
    result = await kubeirq("call", "tax", "-d", '{"n": 1}')
    assert (result.code, result.errors[:12]) == (1, "status 422: "), result
    result = await kubeirq("logs", "tax")
    assert result.code == 0, result
    assert any(line.startswith("tax-") and " sees {'n': 2}" in line for line in result.output.splitlines()), result
    result = await kubeirq("logs", "orders")
    assert f"trigger={place.name}/orders" in result.output, result
    result = await kubeirq("get")
    assert (result.code, result.errors) == (0, ""), result
    assert "KafkaTrigger/orders" in result.output and "2/2" in result.output

    await kafka.publish(cluster.kafka, topic, range(4))
    result = await until(
        lambda: kubeirq("dead-letters", "list", "orders", "-o", "json"),
        lambda result: result.code == 0 and len(json.loads(result.output)) == 2,
    )
    letters = json.loads(result.output)
    assert {letter["reason"] for letter in letters} == {"PermanentAnswer"}
    described = json.loads((await kubeirq("describe", "orders", "-o", "json")).output)
    assert described["flows"][0]["counters"]["received"] == 4
    assert described["flows"][0]["deadLetters"] == 2, "those of all replicas"
    assert sorted(replica["name"] for replica in described["replicas"]) == sorted(
        pod["metadata"]["name"] for pod in await cluster.controllers("kafka")
    )
    result = await kubeirq("describe", "orders")
    assert f"next: kubeirq -n {place.name} dead-letters list orders" in result.output, result
    result = await kubeirq("dead-letters", "show", "orders", letters[0]["identity"], "--data")
    assert '"n": ' in result.output, result

    result = await kubeirq("dead-letters", "redrive", "orders", "--all", "--dry-run")
    assert (result.code, result.output.splitlines()[-1]) == (0, "2 would be redriven"), result
    result = await kubeirq("dead-letters", "redrive", "orders", letters[0]["identity"])
    assert (result.code, "0 delivered, 1 failed again" in result.output) == (1, True), result
    (tmp_path / "code" / "main.py").write_text(CODE.replace("raise No", "return {}\n        raise No"))
    result = await kubeirq("deploy", "app.yaml")
    assert (result.code, "Function/tax: changed" in result.output) == (0, True), result
    # pods of the old version finish their calls, and may still be called for some seconds
    result = await until(
        lambda: kubeirq("dead-letters", "redrive", "orders", letters[0]["identity"]),
        lambda result: result.code == 0,
        30,
    )
    assert "1 delivered, 0 failed again" in result.output, result
    assert (await kubeirq("dead-letters", "purge", "orders", "--all")).output == "purged 1\n"
    assert (await kubeirq("dead-letters", "list", "orders")).output == "no dead letters\n"

    assert (await kubeirq("lanes", "list", "orders")).output == "no lane waits\n"
    assert (await kubeirq("suspend", "orders")).code == 0
    await place.until_condition("KafkaTrigger", "orders", "Ready", "Suspended")
    assert (await kubeirq("dead-letters", "list", "orders")).output == "no dead letters\n"
    assert (await kubeirq("resume", "orders")).code == 0
    await place.until_ready("KafkaTrigger", "orders")
    assert (await kubeirq("resume", "orders")).code == 0, "it was not suspended"


async def test_a_parked_lane_is_listed_and_skipped(place: Namespace, cluster: Cluster, tmp_path: Path):
    kubeirq = terminal(place, tmp_path)
    topic = f"{place.name}-orders"
    await kafka.create_topic(cluster.kafka, topic)
    app = tmp_path / "app.yaml"
    app.write_text(
        app.read_text().replace("function: tax, topics", "function: tax, delivery: {onFailure: park}, topics")
    )
    assert (await kubeirq("deploy", "app.yaml")).code == 0
    await kafka.publish(cluster.kafka, topic, [1])
    result = await until(lambda: kubeirq("lanes", "list", "orders"), lambda result: "parked" in result.output)
    assert "k1" in result.output
    result = await until(lambda: kubeirq("describe", "orders"), lambda result: "Parked" in result.output)
    assert f"next: kubeirq -n {place.name} lanes list orders" in result.output
    assert (await kubeirq("lanes", "skip", "orders", "k1")).output == "skipped 1\n"
    await until(lambda: kubeirq("lanes", "list", "orders"), lambda result: result.output == "no lane waits\n")


async def test_deploy_shows_why_a_function_does_not_start(place: Namespace, cluster: Cluster, tmp_path: Path):
    kubeirq = terminal(place, tmp_path)
    await kafka.create_topic(cluster.kafka, f"{place.name}-orders")
    (tmp_path / "code" / "main.py").write_text("import nowhere\n" + CODE)
    result = await kubeirq("deploy", "app.yaml", "--no-wait")
    assert (result.code, "no module 'nowhere'" in result.errors) == (1, True), result
    hidden = "import importlib\nimportlib.import_module('nowhere')\n"  # seen only by a process that runs it
    (tmp_path / "code" / "main.py").write_text(hidden + CODE)
    assert (await kubeirq("deploy", "app.yaml", "--no-wait")).code == 0
    await place.until_condition("Function", "tax", "Ready", "CrashLoopBackOff", 120)
    result = await kubeirq("deploy", "app.yaml", "--timeout", "0")
    assert result.code == 1, result
    assert "Function/tax is not Ready: CrashLoopBackOff: " in result.errors
    assert (
        "ModuleNotFoundError: No module named 'nowhere'" in result.errors.partition("container function, printed:")[2]
    )
    result = await kubeirq("call", "tax")
    assert (result.code, "function 'tax' is not ready: CrashLoopBackOff" in result.errors) == (1, True), result
    assert "ModuleNotFoundError" in (await kubeirq("logs", "tax")).output
    (tmp_path / "code" / "main.py").write_text(CODE)
    assert (await kubeirq("deploy", "app.yaml")).code == 0, "mended"


async def test_logs_follows_new_lines_across_pods_until_ctrl_c(place: Namespace, tmp_path: Path):
    kubeirq = terminal(place, tmp_path)
    (tmp_path / "app.yaml").write_text(APP.partition("---")[0])
    assert (await kubeirq("deploy", "app.yaml")).code == 0
    async with kubeirq.started("logs", "tax", "-f", "--tail", "0") as following, asyncio.timeout(90):
        assert following.stdout is not None
        for number in range(2):
            if number:
                await place.kubectl("delete", "pod", "--selector=kubeirq.dev/function=tax", "--wait=true")
                await place.until_ready("Function", "tax")
            calling = asyncio.create_task(calls(kubeirq, number))
            while f"sees {{'n': {2 * number}}}" not in (await following.stdout.readline()).decode():
                pass
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
        following.send_signal(signal.SIGINT)
        assert await following.wait() == 130


async def calls(kubeirq: Terminal, number: int) -> None:
    while True:
        await kubeirq("call", "tax", "-d", json.dumps({"n": 2 * number}))


async def test_only_users_with_the_right_see_payloads(place: Namespace, cluster: Cluster, tmp_path: Path):
    person = await cluster.node.kubeconfig_of(f"person-{place.name}")
    kubeirq = terminal(place, tmp_path, person)
    admin = Terminal(tmp_path, cluster.node.kubeconfig, place.name)
    await kafka.create_topic(cluster.kafka, f"{place.name}-orders")
    result = await kubeirq("deploy", "app.yaml")
    assert (result.code, "no permission: " in result.errors) == (1, True), result
    await place.kubectl("create", "rolebinding", "edit", "--clusterrole=edit", f"--user=person-{place.name}")
    result = await kubeirq("deploy", "app.yaml")
    assert result.code == 0, result
    assert (await kubeirq("call", "tax", "-d", '{"n": 2}')).code == 0
    assert (await kubeirq("logs", "tax")).code == 0
    result = await kubeirq("describe", "orders")
    assert (result.code, "dead letters are not known: no permission: pods is forbidden" in result.output) == (
        0,
        True,
    ), result
    result = await kubeirq("dead-letters", "list", "orders", "--system-namespace", RELEASE)
    assert result.code == 1 and f'in the namespace "{RELEASE}"' in result.errors, result

    login = json.loads(person.read_text())
    await place.kubectl("create", "serviceaccount", "team")
    login["users"][0]["user"] = {"token": (await place.kubectl("create", "token", "team")).strip()}
    person.write_text(json.dumps(login))
    result = await kubeirq("dead-letters", "list", "orders", "--system-namespace", RELEASE)
    assert result.code == 1 and "cannot list resource" in result.errors, result
    account = f"--serviceaccount={place.name}:team"
    await place.kubectl("create", "rolebinding", "team", "--clusterrole=edit", account)
    for where in ((), ("--system-namespace", RELEASE)):
        result = await kubeirq("dead-letters", "list", "orders", *where)
        assert (result.code, result.output) == (0, "no dead letters\n"), result
    assert (await admin("dead-letters", "list", "orders")).code == 0, "a certificate and all rights: by exec"
