"""The command line on a cluster without pods: its requests, its output and its exit codes."""

import asyncio
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from servers.controllers import Cluster, cluster
from servers.kubernetes import APIServer, api_server

from controllers.cluster.events import EventRecorder
from controllers.functions.worker_ends import WorkerEnd
from controllers.triggers.worker_ends import record_end

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
class Result:
    """The result of a command."""

    code: int
    output: str
    errors: str

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.output}\n{self.errors}"


async def kubeirq(kubeconfig: Path, folder: Path, *arguments: str) -> Result:
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
    return Result(process.returncode, output.decode(), errors.decode())


def written(folder: Path, *documents: str) -> None:
    (folder / "greet.py").write_text("def handler(event, context):\n    return 'hello'\n")
    (folder / "app.yaml").write_text("".join(documents))


async def until_listed(it: Cluster, resource: str, since: int) -> None:
    """Returns when the command has listed the resources twice more, so that it has seen the current ones."""
    async with asyncio.timeout(20):
        while True:
            events = it.server.audit(resource=resource)[since:]
            if sum(event["verb"] == "list" and "kubectl" not in event["userAgent"] for event in events) >= 2:
                return
            await asyncio.sleep(0.05)


async def set_ready_condition(it: Cluster, kind: str, name: str, status: str, reason: str, message: str = "") -> None:
    """Sets the Ready condition, as the controller does."""
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
async def test_deploy_applies_waits_and_reports_changes_and_unready_resources(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        config = it.server.kubeconfig
        written(tmp_path, FUNCTION, TRIGGER, SECRET)
        result = await kubeirq(config, tmp_path, "deploy", "app.yaml", "--dry-run")
        assert (result.code, "Function/greet: would be created" in result.output) == (0, True), result
        assert await it.get("function", "greet") is None

        deploying = asyncio.create_task(kubeirq(config, tmp_path, "deploy", "app.yaml", "--timeout", "40"))
        await it.until("crontrigger", "tick", bool)
        await set_ready_condition(it, "function", "greet", "False", "Starting", "replicas start")
        await until_listed(it, "functions", since=len(it.server.audit(resource="functions")))
        await set_ready_condition(it, "function", "greet", "True", "Ready")
        await set_ready_condition(it, "crontrigger", "tick", "True", "Ready")
        result = await deploying
        assert result.code == 0, result
        assert "Secret/hush: created\nFunction/greet: created\nCronTrigger/tick: created\n" in result.output
        assert "Function/greet: Starting: replicas start (" in result.output
        assert result.output.splitlines()[-1] == "3 objects applied and Ready"
        made = await it.get("function", "greet")
        assert made["spec"]["source"] == {"inline": (tmp_path / "greet.py").read_text()}
        assert made["metadata"]["labels"] == {"team": "a"}
        assert (await it.get("secret", "hush"))["data"] == {"password": "cXVpZXQ="}

        await set_ready_condition(it, "function", "greet", "False", "CrashLoopBackOff", "the function ended with 1")
        result = await kubeirq(config, tmp_path, "deploy", "app.yaml", "--timeout", "0")
        assert result.code == 1, result
        assert "Function/greet: unchanged" in result.output
        assert "Function/greet is not Ready: CrashLoopBackOff: the function ended with 1 (after 0 s)" in result.errors

        await set_ready_condition(it, "function", "greet", "False", "Invalid", "spec.x: no")
        result = await kubeirq(config, tmp_path, "deploy", "app.yaml")
        assert (result.code, "Function/greet is not Ready: Invalid: spec.x: no" in result.errors) == (1, True), result

        await it.server.kubectl("patch", "fn", "greet", "--type=merge", '--patch={"spec":{"timeoutSeconds":9}}')
        written(tmp_path, FUNCTION + "  timeoutSeconds: 8\n")
        result = await kubeirq(config, tmp_path, "deploy", "app.yaml", "--no-wait")
        assert result.code == 1 and ".spec.timeoutSeconds; --force overwrites these fields" in result.errors, result
        result = await kubeirq(config, tmp_path, "deploy", "app.yaml", "--no-wait", "--force")
        assert (result.code, result.output) == (0, "Function/greet: changed\n")


@pytest.mark.timeout(120)
async def test_problems_of_files_are_reported_before_anything_is_sent(kubernetes: APIServer, tmp_path: Path) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        config = it.server.kubeconfig
        written(tmp_path, FUNCTION, TRIGGER.replace("greet", "greeet"))
        result = await kubeirq(config, tmp_path, "deploy", "app.yaml")
        assert result.code == 1
        assert (
            "app.yaml:9: spec.function: no Function 'greeet' in these files, nor in namespace default" in result.errors
        )
        assert "did you mean 'greet'?" in result.errors
        written(tmp_path, FUNCTION, TRIGGER.replace("{name: tick}", "{name: tick, namespace: shop}"))
        result = await kubeirq(config, tmp_path, "deploy", "app.yaml", "-n", "default")
        assert "metadata.namespace: the file says 'shop', the command says 'default'" in result.errors
        result = await kubeirq(config, tmp_path, "deploy", "app.yaml")
        assert "no Function 'greet' in these files, nor in namespace shop" in result.errors
        assert (await it.get("function"))["items"] == []

        # a problem that only the server finds does not stop the other objects
        written(tmp_path, FUNCTION, TRIGGER.replace("name: tick", "name: tick, labels: {a: b c}"))
        result = await kubeirq(config, tmp_path, "deploy", "app.yaml")
        assert (result.code, "refused 1 of 2 objects" in result.errors) == (1, True), result
        assert "CronTrigger/tick: " in result.errors and "metadata.labels" in result.errors
        assert (await it.get("function", "greet")) is not None


@pytest.mark.timeout(120)
async def test_a_folder_becomes_files_that_the_controller_mounts(kubernetes: APIServer, tmp_path: Path) -> None:
    async with cluster(kubernetes, tmp_path) as it:
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

        result = await kubeirq(it.server.kubeconfig, tmp_path, "deploy", "app.yaml", "--no-wait")
        assert result.code == 0, result
        deployment = await it.until("deployment", "greet", bool)
        volumes = {found["name"]: found for found in deployment["spec"]["template"]["spec"]["volumes"]}
        data = (await it.get("configmap", volumes["code"]["configMap"]["name"]))["data"]
        mounted = {item["path"]: data[item["key"]] for item in volumes["code"]["configMap"]["items"]}
        assert mounted == spec["source"]["files"]


@pytest.mark.timeout(120)
async def test_get_and_describe_show_the_state_of_resources_with_the_worst_first(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        config = it.server.kubeconfig
        result = await kubeirq(config, tmp_path, "get")
        assert (result.code, result.output) == (0, "")
        assert "(cluster of context context, namespace default)" in result.errors, "no option named it"
        written(tmp_path, FUNCTION, TRIGGER, TRIGGER.replace("name: tick", "name: arm"))
        await kubeirq(config, tmp_path, "deploy", "app.yaml", "--no-wait")
        result = await kubeirq(config, tmp_path, "get", "--context", "context")
        assert (result.code, result.errors) == (3, ""), result
        assert "Unseen" in result.output and "no controller has processed it" in result.output
        await set_ready_condition(it, "function", "greet", "True", "Ready")
        await set_ready_condition(it, "crontrigger", "arm", "True", "Ready")
        await set_ready_condition(it, "crontrigger", "tick", "False", "FunctionDown", "greet: no replica is ready")
        result = await kubeirq(config, tmp_path, "get", "-n", "default", "-o", "json")
        found = json.loads(result.output)
        assert [(one["name"], one["ready"], one["reason"]) for one in found["triggers"]] == [
            ("tick", False, "FunctionDown"),
            ("arm", True, "Ready"),
        ]
        assert (result.code, found["functions"][0]["ready"]) == (3, True)
        assert (await kubeirq(config, tmp_path, "get", "fn")).code == 0
        assert (await kubeirq(config, tmp_path, "get", "arm")).code == 0
        everywhere = (await kubeirq(config, tmp_path, "get", "crontriggers", "-A")).output.splitlines()
        assert everywhere[0].split() == ["NAMESPACE", "TRIGGER", "CALLS", "READY", "SINCE", "MESSAGE"]
        assert "default" in everywhere[1] and "greet: no replica is ready" in everywhere[1]

        assert "WorkerEnded" not in (await kubeirq(config, tmp_path, "describe", "greet")).output
        uid = (await it.get("function", "greet"))["metadata"]["uid"]
        for _ in range(2):
            end = WorkerEnd(0.0, "signal SIGSEGV")
            await record_end(EventRecorder(it.api, "kubeirq"), "default", "greet", uid, end)
        result = await kubeirq(config, tmp_path, "describe", "greet")
        assert (
            " ago, 2 times: WorkerEnded: the worker process ended with signal SIGSEGV, and another one" in result.output
        )
        assert "next: kubeirq logs Function/greet" in result.output
        assert "WorkerEnded" in await it.server.kubectl("describe", "function", "greet")

        result = await kubeirq(config, tmp_path, "describe", "tick")
        assert result.code == 0
        assert "  Ready      False    FunctionDown, for " in result.output
        assert "no cron controller runs in any namespace" in result.output
        for command in ("describe", "logs", "suspend", "call"):
            result = await kubeirq(config, tmp_path, command, "tik" if command != "call" else "gret")
            assert result.code == 1, result
            assert ("did you mean 'tick'?" if command != "call" else "did you mean 'greet'?") in result.errors
        result = await kubeirq(config, tmp_path, "call", "greet", "-d", "{}")
        assert (result.code, "function 'greet' is not ready: Ready" in result.errors) == (1, True), (
            "nothing says Available"
        )
        result = await kubeirq(config, tmp_path, "dead-letters", "list", "tick")
        assert (result.code, "no cron controller runs in any namespace" in result.errors) == (1, True), result

        result = await kubeirq(config, tmp_path, "suspend", "CronTrigger/tick")
        assert result.output == "CronTrigger/tick suspended\n", result
        assert (await it.get("crontrigger", "tick"))["spec"]["suspend"] is True
        assert (await kubeirq(config, tmp_path, "resume", "tick")).code == 0
        assert (await it.get("crontrigger", "tick"))["spec"]["suspend"] is False


@pytest.mark.timeout(120)
async def test_a_missing_right_is_named_and_everything_else_is_shown(kubernetes: APIServer, tmp_path: Path) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        written(tmp_path, FUNCTION, TRIGGER)
        await kubeirq(it.server.kubeconfig, tmp_path, "deploy", "app.yaml", "--no-wait")
        visitor = await it.server.kubeconfig_of("visitor", "people")
        result = await kubeirq(visitor, tmp_path, "get")
        assert result.code == 1
        assert 'no permission: functions.kubeirq.dev is forbidden: User "visitor" cannot list' in result.errors
        result = await kubeirq(visitor, tmp_path, "deploy", "app.yaml")
        assert (result.code, 'cannot list resource "functions"' in result.errors) == (1, True), result

        look = ["create", "clusterrole", "look", "--verb=get,list,watch"]
        await it.server.kubectl(*look, "--resource=functions.kubeirq.dev,crontriggers.kubeirq.dev")
        await it.server.kubectl("create", "clusterrolebinding", "look", "--clusterrole=look", "--group=people")
        result = await kubeirq(visitor, tmp_path, "get")
        assert (result.code, "CronTrigger/tick" in result.output) == (3, True), result
        assert (
            '(not shown: no permission: kafkatriggers.kubeirq.dev is forbidden: User "visitor" cannot list'
            in result.errors
        )
        result = await kubeirq(visitor, tmp_path, "describe", "tick")
        assert result.code == 0
        assert (
            'dead letters are not known: no permission: pods is forbidden: User "visitor" cannot list' in result.output
        )
        assert "--system-namespace" in result.output
        result = await kubeirq(visitor, tmp_path, "suspend", "tick")
        assert (result.code, 'cannot patch resource "crontriggers"' in result.errors) == (1, True), result


@pytest.mark.timeout(60)
async def test_a_cluster_without_kubeirq_and_an_unreachable_one_give_different_errors(tmp_path: Path) -> None:
    async with api_server() as server:
        written(tmp_path, FUNCTION)
        for command in (("get",), ("deploy", "app.yaml"), ("call", "greet")):
            result = await kubeirq(server.kubeconfig, tmp_path, *command)
            assert (result.code, "kubeirq is not installed on this cluster" in result.errors) == (1, True), result
        result = await kubeirq(server.kubeconfig, tmp_path, "get", "--context", "other")
        assert (result.code, "no context 'other'" in result.errors) == (4, True), result
        gone = server.kubeconfig
    (tmp_path / "gone").write_text(json.dumps({"kind": "Config"}))
    result = await kubeirq(gone, tmp_path, "get")
    assert (result.code, "no fabric runs on .kubeirq" in result.errors) == (4, True), "no kubeconfig either"
    assert "--context or --kubeconfig" in result.errors
    result = await kubeirq(gone, tmp_path, "get", "--kubeconfig", "gone")
    assert result.code == 4, result


@pytest.mark.timeout(120)
async def test_describe_shows_the_spec_the_function_and_who_changed_what_as_far_as_the_user_may_see(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        kubectl = it.server.kubectl
        await kubectl("create", "namespace", "team")
        variable = "{name: P, valueFrom: {secretKeyRef: {name: hush, key: password}}}"
        written(tmp_path, FUNCTION + f"  env: [{variable}]\n", TRIGGER, SECRET)
        await kubeirq(it.server.kubeconfig, tmp_path, "-n", "team", "deploy", "app.yaml", "--no-wait")
        result = await kubeirq(it.server.kubeconfig, tmp_path, "-n", "team", "describe", "tick")
        assert "  CronTrigger tick created at " in result.output, result
        await asyncio.sleep(2.1)  # the API server keeps whole seconds: an edit has to be later than the creation
        zone, password = '{"spec":{"timeZone":"America/New_York"}}', '{"stringData":{"password":"secret-word"}}'
        await kubectl("patch", "crontrigger", "tick", "-n", "team", "--type=merge", f"--patch={zone}")
        await kubectl("patch", "secret", "hush", "-n", "team", "--type=merge", f"--patch={password}")
        quota = "exceeded quota: q, requested: pods=1"
        conditions = [
            {"type": kind, "status": "False", "reason": "PodsRefused", "message": quota,
             "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
            for kind in ("Ready", "Available")
        ]  # fmt: skip
        patch = json.dumps({"status": {"conditions": conditions}})
        await kubectl("patch", "function", "greet", "-n", "team", "--subresource=status", "--type=merge", f"-p={patch}")

        result = await kubeirq(it.server.kubeconfig, tmp_path, "-n", "team", "describe", "tick")
        assert "  schedule   */5 * * * * in America/New_York\n" in result.output, result
        assert "  Function greet: PodsRefused, for " in result.output
        assert "    exceeded quota: q, requested: pods=1\n" in result.output
        assert re.search(r"  CronTrigger tick edited at .* by kubectl-patch: spec\.timeZone\n", result.output), result
        assert re.search(r"  Secret hush edited at .* by kubectl-patch: data\.password\n", result.output), result
        assert "secret-word" not in result.output
        assert "  next: raise the quota's number of pods" in result.output
        assert "kubectl -n team get resourcequotas,pods" in result.output

        visitor = await it.server.kubeconfig_of("visitor", "people")
        resources = "--resource=functions.kubeirq.dev,crontriggers.kubeirq.dev"
        await kubectl("create", "clusterrole", "look", "--verb=get,list,watch", resources)
        await kubectl("create", "clusterrolebinding", "look", "--clusterrole=look", "--group=people")
        result = await kubeirq(visitor, tmp_path, "-n", "team", "describe", "tick")
        assert "CronTrigger tick edited" in result.output, result
        assert "hush" not in result.output

        result = await kubeirq(it.server.kubeconfig, tmp_path, "-n", "nosuch", "get")
        assert (result.code, "there is no namespace 'nosuch'" in result.errors) == (1, True), result
        result = await kubeirq(it.server.kubeconfig, tmp_path, "get")
        assert (result.code, "(no functions and no triggers)" in result.errors) == (0, True), result
