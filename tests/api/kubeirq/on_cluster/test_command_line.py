"""The command line on a cluster, as far as that needs no pods: what it sends, what it tells, and its exit codes."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from servers.controllers import Cluster, cluster
from servers.kubernetes import api_server

FUNCTION = """
apiVersion: kubeirq.dev/v1
kind: Function
metadata: {name: greet, labels: {team: a}}
spec:
  source: {path: greet.py}
"""
TRIGGER = """
---
apiVersion: kubeirq.dev/v1
kind: CronTrigger
metadata: {name: tick}
spec: {schedule: "*/5 * * * *", function: greet}
"""
SECRET = """
---
apiVersion: v1
kind: Secret
metadata: {name: hush}
stringData: {password: quiet}
"""


@dataclass
class Told:
    """What a command said."""

    code: int
    output: str
    errors: str

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.output}\n{self.errors}"


async def kubeirq(kubeconfig: Path, folder: Path, *arguments: str) -> Told:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kubeirq", *arguments,
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(50):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Told(process.returncode, output.decode(), errors.decode())


def written(folder: Path, *documents: str) -> None:
    (folder / "greet.py").write_text("def handler(event, context):\n    return 'hello'\n")
    (folder / "app.yaml").write_text("".join(documents))


async def until_listed(it: Cluster, resource: str, since: int) -> None:
    """By the command, twice after so many requests: it has seen what was there."""
    async with asyncio.timeout(20):
        while True:
            events = it.server.audit(resource=resource)[since:]
            if sum(event["verb"] == "list" and "kubectl" not in event["userAgent"] for event in events) >= 2:
                return
            await asyncio.sleep(0.05)


async def say(it: Cluster, kind: str, name: str, status: str, reason: str, message: str = "") -> None:
    """As its controller would."""
    found = await it.get(kind, name)
    condition = {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": found["metadata"]["generation"],
    }
    patch = json.dumps({"status": {"conditions": [condition]}})
    await it.server.kubectl("patch", kind, name, "--subresource=status", "--type=merge", f"--patch={patch}")


@pytest.mark.timeout(120)
async def test_deploy_sends_waits_says_what_changes_and_what_is_not_ready(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it:
        config = it.server.kubeconfig
        written(tmp_path, FUNCTION, TRIGGER, SECRET)
        told = await kubeirq(config, tmp_path, "deploy", "app.yaml", "--dry-run")
        assert (told.code, "Function/greet: would be created" in told.output) == (0, True), told
        assert await it.get("function", "greet") is None

        deploying = asyncio.create_task(kubeirq(config, tmp_path, "deploy", "app.yaml", "--timeout", "40"))
        await it.until("crontrigger", "tick", bool)
        await say(it, "function", "greet", "False", "Starting", "replicas start")
        await until_listed(it, "functions", since=len(it.server.audit(resource="functions")))
        await say(it, "function", "greet", "True", "Ready")
        await say(it, "crontrigger", "tick", "True", "Ready")
        told = await deploying
        assert told.code == 0, told
        assert "Secret/hush: created\nFunction/greet: created\nCronTrigger/tick: created\n" in told.output
        assert "Function/greet: Starting: replicas start (" in told.output
        assert told.output.splitlines()[-1] == "3 objects applied and Ready"
        made = await it.get("function", "greet")
        assert made["spec"]["source"] == {"inline": (tmp_path / "greet.py").read_text()}
        assert made["metadata"]["labels"] == {"team": "a"}
        assert (await it.get("secret", "hush"))["data"] == {"password": "cXVpZXQ="}

        await say(it, "function", "greet", "False", "CrashLoopBackOff", "the function ended with 1")
        told = await kubeirq(config, tmp_path, "deploy", "app.yaml", "--timeout", "0")
        assert told.code == 1, told
        assert "Function/greet: unchanged" in told.output
        assert "Function/greet is not Ready: CrashLoopBackOff: the function ended with 1 (after 0 s)" in told.errors

        await say(it, "function", "greet", "False", "Invalid", "spec.x: no")
        told = await kubeirq(config, tmp_path, "deploy", "app.yaml")
        assert (told.code, "Function/greet is not Ready: Invalid: spec.x: no" in told.errors) == (1, True), told

        await it.server.kubectl("patch", "fn", "greet", "--type=merge", '--patch={"spec":{"timeoutSeconds":9}}')
        written(tmp_path, FUNCTION + "  timeoutSeconds: 8\n")
        told = await kubeirq(config, tmp_path, "deploy", "app.yaml", "--no-wait")
        assert told.code == 1 and ".spec.timeoutSeconds; --force overwrites these fields" in told.errors, told
        told = await kubeirq(config, tmp_path, "deploy", "app.yaml", "--no-wait", "--force")
        assert (told.code, told.output) == (0, "Function/greet: changed\n")


@pytest.mark.timeout(120)
async def test_what_is_wrong_with_files_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it:
        config = it.server.kubeconfig
        written(tmp_path, FUNCTION, TRIGGER.replace("greet", "greeet"))
        told = await kubeirq(config, tmp_path, "deploy", "app.yaml")
        assert told.code == 1
        assert "app.yaml:9: spec.function: no Function 'greeet' in these files, nor in namespace default" in told.errors
        assert "did you mean 'greet'?" in told.errors
        written(tmp_path, FUNCTION, TRIGGER.replace("{name: tick}", "{name: tick, namespace: shop}"))
        told = await kubeirq(config, tmp_path, "deploy", "app.yaml", "-n", "default")
        assert "metadata.namespace: the file says 'shop', the command says 'default'" in told.errors
        told = await kubeirq(config, tmp_path, "deploy", "app.yaml")
        assert "no Function 'greet' in these files, nor in namespace shop" in told.errors
        assert (await it.get("function"))["items"] == []

        # what only the server knows keeps no other from being sent
        written(tmp_path, FUNCTION, TRIGGER.replace("name: tick", "name: tick, labels: {a: b c}"))
        told = await kubeirq(config, tmp_path, "deploy", "app.yaml")
        assert (told.code, "refused 1 of 2 objects" in told.errors) == (1, True), told
        assert "CronTrigger/tick: " in told.errors and "metadata.labels" in told.errors
        assert (await it.get("function", "greet")) is not None


@pytest.mark.timeout(120)
async def test_a_folder_becomes_files_that_the_controller_mounts(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it:
        await it.start("functions")
        code = tmp_path / "code"
        (code / "shop").mkdir(parents=True)
        (code / "greet.py").write_text("from shop.prices import TAX\ndef handler(event, context):\n    return TAX\n")
        (code / "shop" / "prices.py").write_text("TAX = 19\n")
        (code / "requirements.txt").write_text("six\n")
        written(tmp_path, FUNCTION.replace("greet.py", "code") + "  dependenciesPath: code/requirements.txt\n")
        rendered = await kubeirq(it.server.kubeconfig, tmp_path, "render", "app.yaml")
        spec = yaml.safe_load(rendered.output)["spec"]
        assert spec["source"]["files"]["shop/prices.py"] == "TAX = 19\n"
        assert spec["dependencies"] == "six\n"
        assert "dependenciesPath" not in spec

        told = await kubeirq(it.server.kubeconfig, tmp_path, "deploy", "app.yaml", "--no-wait")
        assert told.code == 0, told
        deployment = await it.until("deployment", "greet", bool)
        volumes = {found["name"]: found for found in deployment["spec"]["template"]["spec"]["volumes"]}
        data = (await it.get("configmap", volumes["code"]["configMap"]["name"]))["data"]
        mounted = {item["path"]: data[item["key"]] for item in volumes["code"]["configMap"]["items"]}
        assert mounted == spec["source"]["files"]


@pytest.mark.timeout(120)
async def test_get_and_describe_tell_what_the_resources_say_worst_first(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it:
        config = it.server.kubeconfig
        told = await kubeirq(config, tmp_path, "get")
        assert (told.code, told.output) == (0, "")
        assert "(cluster of context context, namespace default)" in told.errors, "nobody said which"
        written(tmp_path, FUNCTION, TRIGGER, TRIGGER.replace("name: tick", "name: arm"))
        await kubeirq(config, tmp_path, "deploy", "app.yaml", "--no-wait")
        told = await kubeirq(config, tmp_path, "get", "--context", "context")
        assert (told.code, told.errors) == (3, ""), told
        assert "Unseen" in told.output and "no controller has processed it" in told.output
        await say(it, "function", "greet", "True", "Ready")
        await say(it, "crontrigger", "arm", "True", "Ready")
        await say(it, "crontrigger", "tick", "False", "FunctionDown", "greet: no replica is ready")
        told = await kubeirq(config, tmp_path, "get", "-n", "default", "-o", "json")
        found = json.loads(told.output)
        assert [(one["name"], one["ready"], one["reason"]) for one in found["triggers"]] == [
            ("tick", False, "FunctionDown"),
            ("arm", True, "Ready"),
        ]
        assert (told.code, found["functions"][0]["ready"]) == (3, True)
        assert (await kubeirq(config, tmp_path, "get", "fn")).code == 0
        assert (await kubeirq(config, tmp_path, "get", "arm")).code == 0
        everywhere = (await kubeirq(config, tmp_path, "get", "crontriggers", "-A")).output.splitlines()
        assert everywhere[0].split() == ["NAMESPACE", "TRIGGER", "CALLS", "READY", "SINCE", "MESSAGE"]
        assert "default" in everywhere[1] and "greet: no replica is ready" in everywhere[1]

        told = await kubeirq(config, tmp_path, "describe", "tick")
        assert told.code == 0
        assert "  Ready      False    FunctionDown, for " in told.output
        assert "no cron controller runs in any namespace" in told.output
        for command in ("describe", "logs", "suspend", "call"):
            told = await kubeirq(config, tmp_path, command, "tik" if command != "call" else "gret")
            assert told.code == 1, told
            assert ("did you mean 'tick'?" if command != "call" else "did you mean 'greet'?") in told.errors
        told = await kubeirq(config, tmp_path, "call", "greet", "-d", "{}")
        assert (told.code, "function 'greet' is not ready: Ready" in told.errors) == (1, True), "nothing says Available"
        told = await kubeirq(config, tmp_path, "dead-letters", "list", "tick")
        assert (told.code, "no cron controller runs in any namespace" in told.errors) == (1, True), told

        told = await kubeirq(config, tmp_path, "suspend", "CronTrigger/tick")
        assert told.output == "CronTrigger/tick suspended\n", told
        assert (await it.get("crontrigger", "tick"))["spec"]["suspend"] is True
        assert (await kubeirq(config, tmp_path, "resume", "tick")).code == 0
        assert (await it.get("crontrigger", "tick"))["spec"]["suspend"] is False


@pytest.mark.timeout(120)
async def test_a_right_that_is_missing_is_named_and_what_can_be_told_is_told(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it:
        written(tmp_path, FUNCTION, TRIGGER)
        await kubeirq(it.server.kubeconfig, tmp_path, "deploy", "app.yaml", "--no-wait")
        visitor = await it.server.kubeconfig_of("visitor", "people")
        told = await kubeirq(visitor, tmp_path, "get")
        assert told.code == 1
        assert 'no permission: functions.kubeirq.dev is forbidden: User "visitor" cannot list' in told.errors
        told = await kubeirq(visitor, tmp_path, "deploy", "app.yaml")
        assert (told.code, 'cannot list resource "functions"' in told.errors) == (1, True), told

        look = ["create", "clusterrole", "look", "--verb=get,list,watch"]
        await it.server.kubectl(*look, "--resource=functions.kubeirq.dev,crontriggers.kubeirq.dev")
        await it.server.kubectl("create", "clusterrolebinding", "look", "--clusterrole=look", "--group=people")
        told = await kubeirq(visitor, tmp_path, "get")
        assert (told.code, "CronTrigger/tick" in told.output) == (3, True), told
        assert (
            '(not shown: no permission: kafkatriggers.kubeirq.dev is forbidden: User "visitor" cannot list'
            in told.errors
        )
        told = await kubeirq(visitor, tmp_path, "describe", "tick")
        assert told.code == 0
        assert 'dead letters are not known: no permission: pods is forbidden: User "visitor" cannot list' in told.output
        assert "--system-namespace" in told.output
        told = await kubeirq(visitor, tmp_path, "suspend", "tick")
        assert (told.code, 'cannot patch resource "crontriggers"' in told.errors) == (1, True), told


@pytest.mark.timeout(60)
async def test_a_cluster_without_kubeirq_and_one_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    async with api_server() as server:
        written(tmp_path, FUNCTION)
        for command in (("get",), ("deploy", "app.yaml"), ("call", "greet")):
            told = await kubeirq(server.kubeconfig, tmp_path, *command)
            assert (told.code, "kubeirq is not installed on this cluster" in told.errors) == (1, True), told
        told = await kubeirq(server.kubeconfig, tmp_path, "get", "--context", "other")
        assert (told.code, "no context 'other'" in told.errors) == (4, True), told
        gone = server.kubeconfig
    (tmp_path / "gone").write_text(json.dumps({"kind": "Config"}))
    told = await kubeirq(gone, tmp_path, "get")
    assert (told.code, "no fabric runs on .kubeirq" in told.errors) == (4, True), "no kubeconfig either"
    assert "--context or --kubeconfig" in told.errors
    told = await kubeirq(gone, tmp_path, "get", "--kubeconfig", "gone")
    assert told.code == 4, told
