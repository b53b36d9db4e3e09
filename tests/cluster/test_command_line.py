"""The command line on a real cluster: what needs pods, the API server's proxy, logs and exec."""

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
class Told:
    """What a command said."""

    code: int
    output: str
    errors: str

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.output}\n{self.errors}"


@dataclass
class Terminal:
    """Where a person types `kubeirq`: in a folder, with a kubeconfig, in a namespace."""

    folder: Path
    kubeconfig: Path
    namespace: str

    async def __call__(self, *arguments: str) -> Told:
        async with self.started(*arguments) as process:
            async with asyncio.timeout(200):
                output, errors = await process.communicate()
        assert process.returncode is not None
        return Told(process.returncode, output.decode(), errors.decode())

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


async def until(told: Any, holds: Any, seconds: float = 60) -> Told:
    """What the command says, as soon as this holds of it."""
    found = None
    try:
        async with asyncio.timeout(seconds):
            while not holds(found := await told()):
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"not in {seconds:g} s: {found}") from None
    return found


async def test_a_folder_is_deployed_called_looked_at_and_its_dead_letters_looked_after(
    place: Namespace, cluster: Cluster, tmp_path: Path
):
    kubeirq = terminal(place, tmp_path)
    topic = f"{place.name}-orders"
    await kafka.create_topic(cluster.kafka.bootstrap, topic)
    told = await kubeirq("deploy", "app.yaml")
    assert told.code == 0, told
    assert told.output.splitlines()[-1] == "2 objects applied and Ready"

    told = await kubeirq("call", "tax", "-d", '{"n": 2}')
    assert (told.code, json.loads(told.output)) == (0, {"tax": 19}), told
    told = await kubeirq("call", "tax", "-d", '{"n": 1}')
    assert (told.code, told.errors) == (1, "status 422\n"), told
    told = await kubeirq("logs", "tax")
    assert told.code == 0, told
    assert any(line.startswith("tax-") and "  sees {'n': 2}" in line for line in told.output.splitlines()), told
    told = await kubeirq("logs", "orders")
    assert f"trigger={place.name}/orders" in told.output, told
    told = await kubeirq("get")
    assert (told.code, told.errors) == (0, ""), told
    assert "KafkaTrigger/orders" in told.output and "2/2" in told.output

    await kafka.publish(cluster.kafka.bootstrap, topic, range(4))
    told = await until(
        lambda: kubeirq("dead-letters", "list", "orders", "-o", "json"),
        lambda told: told.code == 0 and len(json.loads(told.output)) == 2,
    )
    letters = json.loads(told.output)
    assert {letter["reason"] for letter in letters} == {"PermanentAnswer"}
    described = json.loads((await kubeirq("describe", "orders", "-o", "json")).output)
    assert described["flows"][0]["counters"]["received"] == 4
    assert described["flows"][0]["deadLetters"] == 2, "whichever replica wrote them"
    assert sorted(replica["name"] for replica in described["replicas"]) == sorted(
        pod["metadata"]["name"] for pod in await cluster.controllers("kafka")
    )
    told = await kubeirq("describe", "orders")
    assert "next: kubeirq dead-letters list orders" in told.output, told
    told = await kubeirq("dead-letters", "show", "orders", letters[0]["identity"], "--data")
    assert '"n": ' in told.output, told

    told = await kubeirq("dead-letters", "redrive", "orders", "--all", "--dry-run")
    assert (told.code, told.output.splitlines()[-1]) == (0, "2 would be redriven"), told
    told = await kubeirq("dead-letters", "redrive", "orders", letters[0]["identity"])
    assert (told.code, "0 delivered, 1 failed again" in told.output) == (1, True), told
    (tmp_path / "code" / "main.py").write_text(CODE.replace("raise No", "return {}\n        raise No"))
    told = await kubeirq("deploy", "app.yaml")
    assert (told.code, "Function/tax: changed" in told.output) == (0, True), told
    # the pods of the version before finish what they have begun, and may be called for some seconds
    told = await until(
        lambda: kubeirq("dead-letters", "redrive", "orders", letters[0]["identity"]), lambda told: told.code == 0, 30
    )
    assert "1 delivered, 0 failed again" in told.output, told
    assert (await kubeirq("dead-letters", "purge", "orders", "--all")).output == "purged 1\n"
    assert (await kubeirq("dead-letters", "list", "orders")).output == "no dead letters\n"

    assert (await kubeirq("lanes", "list", "orders")).output == "no lane waits\n"
    assert (await kubeirq("suspend", "orders")).code == 0
    await place.until_condition("KafkaTrigger", "orders", "Ready", "Suspended")
    assert (await kubeirq("dead-letters", "list", "orders")).output == "no dead letters\n"
    assert (await kubeirq("resume", "orders")).code == 0
    await place.until_ready("KafkaTrigger", "orders")
    assert (await kubeirq("resume", "orders")).code == 0, "it was not suspended"


async def test_a_lane_that_is_parked_is_listed_and_released(place: Namespace, cluster: Cluster, tmp_path: Path):
    kubeirq = terminal(place, tmp_path)
    topic = f"{place.name}-orders"
    await kafka.create_topic(cluster.kafka.bootstrap, topic)
    app = tmp_path / "app.yaml"
    app.write_text(
        app.read_text().replace("function: tax, topics", "function: tax, delivery: {onFailure: park}, topics")
    )
    assert (await kubeirq("deploy", "app.yaml")).code == 0
    await kafka.publish(cluster.kafka.bootstrap, topic, [1])
    told = await until(lambda: kubeirq("lanes", "list", "orders"), lambda told: "parked" in told.output)
    assert "k1" in told.output
    told = await until(lambda: kubeirq("describe", "orders"), lambda told: "Parked" in told.output)
    assert "next: kubeirq lanes list orders" in told.output
    assert (await kubeirq("lanes", "skip", "orders", "k1")).output == "skipped 1\n"
    await until(lambda: kubeirq("lanes", "list", "orders"), lambda told: told.output == "no lane waits\n")


async def test_what_keeps_a_function_from_starting_is_shown_where_it_is_deployed(place: Namespace, tmp_path: Path):
    kubeirq = terminal(place, tmp_path)
    (tmp_path / "code" / "main.py").write_text("import nowhere\n")
    told = await kubeirq("deploy", "app.yaml", "--timeout", "25")
    assert told.code == 1, told
    assert "Function/tax is not Ready: CrashLoopBackOff: " in told.errors
    assert "ModuleNotFoundError: No module named 'nowhere'" in told.errors.partition("container function, printed:")[2]
    told = await kubeirq("call", "tax")
    assert (told.code, "function 'tax' is not ready: CrashLoopBackOff" in told.errors) == (1, True), told
    assert "ModuleNotFoundError" in (await kubeirq("logs", "tax")).output
    (tmp_path / "code" / "main.py").write_text(CODE)
    assert (await kubeirq("deploy", "app.yaml")).code == 0, "mended"


async def test_lines_to_come_are_followed_over_pods_until_interrupted(place: Namespace, tmp_path: Path):
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


async def test_only_who_may_exec_is_told_what_events_carry(place: Namespace, cluster: Cluster, tmp_path: Path):
    person = await cluster.node.kubeconfig_of(f"person-{place.name}")
    kubeirq = terminal(place, tmp_path, person)
    admin = Terminal(tmp_path, cluster.node.kubeconfig, place.name)
    await kafka.create_topic(cluster.kafka.bootstrap, f"{place.name}-orders")
    told = await kubeirq("deploy", "app.yaml")
    assert (told.code, "no permission: " in told.errors) == (1, True), told
    await place.kubectl("create", "rolebinding", "edit", "--clusterrole=edit", f"--user=person-{place.name}")
    told = await kubeirq("deploy", "app.yaml")
    assert told.code == 0, told
    assert (await kubeirq("call", "tax", "-d", '{"n": 2}')).code == 0
    assert (await kubeirq("logs", "tax")).code == 0
    told = await kubeirq("describe", "orders")
    assert (told.code, "dead letters are not known: no permission: pods is forbidden" in told.output) == (0, True), told
    told = await kubeirq("dead-letters", "list", "orders", "--system-namespace", RELEASE)
    assert told.code == 1 and f'in the namespace "{RELEASE}"' in told.errors, told

    role = (f"--role={RELEASE}-operator", f"--user=person-{place.name}")
    await cluster.kubectl("create", "rolebinding", f"operator-{place.name}", *role)
    told = await kubeirq("dead-letters", "list", "orders", "--system-namespace", RELEASE)
    assert (told.code, told.output) == (0, "no dead letters\n"), told
    told = await kubeirq("dead-letters", "list", "orders")
    assert (told.code, "--system-namespace" in told.errors) == (1, True), told
    assert (await admin("dead-letters", "list", "orders")).code == 0, "who may list pods everywhere needs not say where"
