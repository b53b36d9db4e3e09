"""The Function controller on a real API server: it creates objects, repairs them, and reports their state."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from servers.controllers import Cluster, condition
from servers.controllers import cluster as empty_cluster
from servers.kubernetes import APIServer


@asynccontextmanager
async def cluster(server: APIServer, folder: Path) -> AsyncIterator[Cluster]:
    """A cluster with a single replica of the controller."""
    async with empty_cluster(server, folder) as found:
        await found.start("functions", KUBEIRQ_NAMESPACE="")
        yield found


def function(name: str = "greet", inline: str = "def handler(event, context):\n    return 1\n", **spec: Any) -> Any:
    return {
        "apiVersion": "kubeirq.dev/v1",
        "kind": "Function",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"source": {"inline": inline}, **spec},
    }


def ready(found: Any) -> Any:
    """The Ready condition, or None."""
    conditions = ((found or {}).get("status") or {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == "Ready"), None)


@pytest.mark.timeout(120)
async def test_a_function_gets_its_objects_and_drift_is_repaired_within_seconds(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.apply(function())
        made = await it.until("deployment", "greet", bool)
        container = made["spec"]["template"]["spec"]["containers"][0]
        image = container["image"]
        await it.until("service", "greet", bool)
        await it.until("function", "greet", lambda found: ready(found) and ready(found)["status"] == "False")
        await it.server.kubectl("set", "image", "deployment/greet", f"{container['name']}=other:1")
        await it.until(
            "deployment", "greet", lambda f: f["spec"]["template"]["spec"]["containers"][0]["image"] == image, 10
        )


@pytest.mark.timeout(120)
async def test_a_rollout_that_is_undone_is_set_back_and_the_function_says_so(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    def code(deployment: Any) -> Any:
        return deployment["spec"]["template"]["spec"]["volumes"]

    async with cluster(kubernetes, tmp_path) as it:
        await it.apply(function())
        first = await it.until("deployment", "greet", bool)
        await it.apply(function(inline="def handler(event, context):\n    return 2\n"))
        second = await it.until("deployment", "greet", lambda found: code(found) != code(first))
        await it.until("function", "greet", lambda found: found["status"].get("observedGeneration") == 2)
        assert "Restored" not in await it.server.kubectl("describe", "function", "greet"), "an edit is none"
        await it.server.kubectl("rollout", "undo", "deployment/greet")
        async with asyncio.timeout(20):
            while "Restored" not in (said := await it.server.kubectl("describe", "function", "greet")):
                await asyncio.sleep(0.2)
        assert "kubectl rollout undo" in said
        await it.until("deployment", "greet", lambda found: code(found) == code(second))


@pytest.mark.timeout(120)
async def test_removed_fields_are_undone_and_an_autoscalers_replicas_stay(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    def variables(found: Any) -> set[str]:
        return {item["name"] for item in found["spec"]["template"]["spec"]["containers"][0]["env"]}

    async with cluster(kubernetes, tmp_path) as it:
        cpu = {"requests": {"cpu": "100m"}}
        env = [{"name": name, "value": "1"} for name in ("KEPT", "GONE")]
        await it.apply(function(env=env, scale={"min": 3}, resources=cpu))
        await it.until("deployment", "greet", lambda found: found and "GONE" in variables(found))
        await it.apply(function(env=env[:1], scale={"min": 2, "max": 5}, resources=cpu))
        found = await it.until("deployment", "greet", lambda found: "GONE" not in variables(found))
        assert "KEPT" in variables(found)
        assert found["spec"]["replicas"] == 3
        await it.until("horizontalpodautoscaler", "greet", bool)
        await it.apply(function(scale={"min": 1}))
        await it.until("deployment", "greet", lambda found: found["spec"]["replicas"] == 1)
        await it.until("horizontalpodautoscaler", "greet", lambda found: found is None)


@pytest.mark.timeout(120)
async def test_changed_code_gets_a_new_config_map_and_the_old_one_stays_for_a_rollback(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.apply(function())
        await it.until("deployment", "greet", bool)

        async def code() -> set[str]:
            names = (await it.server.kubectl("get", "configmap", "-o", "name")).split()
            return {name for name in names if "/greet-" in name}

        (first,) = await code()
        await it.until("replicaset", "", lambda found: len(found["items"]) == 1)
        await it.apply(function(inline="def handler(event, context):\n    return 2\n"))
        await it.until("replicaset", "", lambda found: len(found["items"]) == 2)
        both = await code()
        assert first in both
        assert len(both) == 2
        await it.apply(function())
        await it.until("function", "greet", lambda f: f["status"]["observedGeneration"] == f["metadata"]["generation"])
        assert await code() == both, "a rollback is to the old one"


@pytest.mark.timeout(180)
async def test_deleting_a_function_deletes_its_objects_even_while_no_controller_runs(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        for name in ("one", "two"):
            cpu = {"requests": {"cpu": "100m"}}
            await it.apply(function(name, scale={"min": 2, "max": 4}, resources=cpu))
            for kind in ("deployment", "service", "horizontalpodautoscaler", "poddisruptionbudget"):
                await it.until(kind, name, bool)
        await it.server.kubectl("delete", "function", "one", "--timeout=10s")
        await it.controllers[0].kill()
        await it.server.kubectl("delete", "function", "two", "--timeout=10s")
        for kind in ("deployment", "horizontalpodautoscaler", "poddisruptionbudget", "replicaset", "pod"):
            # the garbage collector discovers new kinds every half minute
            await it.until(kind, "", lambda found: not found["items"], 60)
        for name in ("one", "two"):
            await it.until("service", name, lambda found: found is None)
        await it.until("configmap", "", lambda f: [i["metadata"]["name"] for i in f["items"]] == ["kube-root-ca.crt"])


@pytest.mark.timeout(120)
async def test_a_problem_becomes_a_condition_with_field_problem_and_way_out(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken"},
                        "spec": {"ports": [{"port": 80}]}})  # fmt: skip
        await it.apply(function("taken"), function("patched", podTemplate={"spec": {"containers": "none"}}))
        more_than_most = {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}
        await it.apply(function("greedy", resources=more_than_most))
        found = await it.until("function", "taken", lambda f: ready(f) and ready(f)["reason"] == "NameTaken")
        assert "Service 'taken' exists already and is not this function's" in ready(found)["message"]
        found = await it.until("function", "patched", lambda f: ready(f) and ready(f)["reason"] == "Refused")
        assert ".spec.podTemplate.spec.containers: expected list" in ready(found)["message"]
        found = await it.until("function", "greedy", lambda f: ready(f) and ready(f)["reason"] == "Refused")
        assert "spec.resources.requests: Invalid value" in ready(found)["message"]
        async with asyncio.timeout(10):
            while "Warning  NameTaken" not in await it.server.kubectl("describe", "function", "taken"):
                await asyncio.sleep(0.1)
        service = await it.get("service", "taken")
        assert "ownerReferences" not in service["metadata"], "an object of another owner is not taken over"


@pytest.mark.timeout(120)
async def test_a_pods_later_problem_is_reported_while_its_deployment_is_unchanged(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.apply(function())
        pods = await it.until("pod", "", lambda found: found["items"])
        await it.until("function", "greet", lambda f: ready(f) and ready(f)["reason"] in ("RollingOut", "Starting"))
        ended = {"terminated": {"exitCode": 3, "reason": "Error", "message": "no licence"}}
        container = {"name": "function", "image": "x", "imageID": "x", "ready": False, "restartCount": 1}
        status = {"status": {"containerStatuses": [{**container, "state": ended}]}}
        name = pods["items"][0]["metadata"]["name"]
        await it.server.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))
        found = await it.until("function", "greet", lambda f: ready(f)["reason"] == "CrashLoopBackOff")
        assert "no licence" in ready(found)["message"]


@pytest.mark.timeout(180)
async def test_at_rest_nothing_is_written(kubernetes: APIServer, tmp_path: Path) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.apply(*(function(f"f{number}") for number in range(20)))
        for number in range(20):
            await it.until("function", f"f{number}", ready)
        writes = it.server.writes

        def count() -> int:
            return sum(1 for event in writes(user="admin") if "kubectl" not in event["userAgent"])

        async with asyncio.timeout(60):
            while True:  # the deployments' own status settles
                before = count()
                await asyncio.sleep(3)
                if count() == before:
                    break
        await it.controllers[0].kill()
        await it.controllers[0].start()  # a new replica checks everything, and finds nothing to change
        await asyncio.sleep(20)
        process = it.controllers[0].process
        assert process is not None
        assert process.returncode is None
        assert count() == before, [e["objectRef"] for e in writes(user="admin")[-5:]]


@pytest.mark.timeout(120)
async def test_another_spelling_of_a_number_another_order_and_another_label_are_rolled_out(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    def container(found: Any) -> Any:
        return found["spec"]["template"]["spec"]["containers"][0]

    def variables(found: Any) -> list[tuple[str, str]]:
        return [(item["name"], item["value"]) for item in container(found)["env"] if item["name"] in ("A", "B")]

    async with cluster(kubernetes, tmp_path) as it:
        cpu = {"requests": {"cpu": "0.5"}}
        first, second = {"name": "A", "value": "1.1"}, {"name": "B", "value": "$(A)"}
        await it.apply(function(env=[first, second], resources=cpu))
        await it.until("deployment", "greet", lambda found: found and variables(found)[0] == ("A", "1.1"))
        await it.apply(function(env=[{**first, "value": "1.10"}, second], resources=cpu))
        await it.until("deployment", "greet", lambda found: variables(found)[0] == ("A", "1.10"))
        await it.apply(function(env=[second, first], resources=cpu))
        found = await it.until("deployment", "greet", lambda found: variables(found)[0] == ("B", "$(A)"))
        assert container(found)["resources"]["requests"]["cpu"] == "500m"
        await it.server.kubectl("label", "function", "greet", "team=1.10")
        await it.until("deployment", "greet", lambda found: found["metadata"]["labels"].get("team") == "1.10")
        await it.server.kubectl("label", "--overwrite", "function", "greet", "team=1.1")
        await it.until("deployment", "greet", lambda found: found["metadata"]["labels"].get("team") == "1.1")


@pytest.mark.timeout(120)
async def test_other_content_behind_a_reference_is_rolled_out_and_a_missing_one_rolls_nothing_out(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    def config_map(name: str, **data: str) -> Any:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}

    def content(found: Any) -> Any:
        return found["spec"]["template"]["metadata"]["annotations"].get("kubeirq.dev/content")

    async with cluster(kubernetes, tmp_path) as it:
        await it.apply(config_map("code", **{"a.py": "1", "other": "1"}), config_map("all", A="1"), config_map("one"))
        made = function()
        made["spec"] = {
            "source": {"configMap": {"name": "code", "key": "a.py"}},
            "env": [{"name": "B", "valueFrom": {"configMapKeyRef": {"name": "one", "key": "B"}}}],
            "envFrom": [{"configMapRef": {"name": "all"}}],
        }
        await it.apply(made, function("other"))
        await it.until("deployment", "greet", lambda found: found and content(found) is None)
        last = None
        for changed in (
            config_map("one", B="1"), config_map("one", B="1.0"), config_map("all", A="1", C="1"),
            config_map("code", **{"a.py": "2", "other": "1"}),
        ):  # fmt: skip
            await it.apply(changed)
            found = await it.until("deployment", "greet", lambda found, last=last: content(found) not in (None, last))
            last = content(found)
        generation = found["metadata"]["generation"]
        await it.apply(config_map("code", **{"a.py": "2", "other": "2"}))  # not a key that it refers to
        await it.server.kubectl("delete", "configmap", "all", "one")
        await it.apply(config_map("all", A="1", C="1"), config_map("one", B="2"))
        found = await it.until("deployment", "greet", lambda found: content(found) != last)
        assert found["metadata"]["generation"] == generation + 1
        assert content(await it.get("deployment", "other")) is None


@pytest.mark.timeout(300)
async def test_two_installations_over_one_namespace_do_not_fight_and_the_second_takes_over_when_the_first_is_gone(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with empty_cluster(kubernetes, tmp_path) as it:
        first = {"KUBEIRQ_NAMESPACE": "", "KUBEIRQ_RELEASE": "a/one", "KUBEIRQ_RUNTIME_IMAGE": "runtimes:1"}
        second = {"KUBEIRQ_NAMESPACE": "", "KUBEIRQ_RELEASE": "b/two", "KUBEIRQ_RUNTIME_IMAGE": "runtimes:2"}
        former = await it.start("functions", **first)
        await it.apply(function())
        await it.until("function", "greet", lambda found: ready(found) and found["status"].get("installation"))
        await it.start("functions", replica="two", **second)
        async with asyncio.timeout(40):
            while "TwoInstallations" not in await it.server.kubectl("describe", "function", "greet"):
                await asyncio.sleep(0.2)
        before = await it.get("deployment", "greet")
        await asyncio.sleep(5)  # nothing may happen in this time
        after = await it.get("deployment", "greet")
        assert after["metadata"]["generation"] == before["metadata"]["generation"] == 1
        told = await it.until("function", "greet", lambda f: condition(f, "Accepted")["reason"] == "TwoInstallations")
        assert "b/two watches this namespace, too" in condition(told, "Accepted")["message"]
        await former.stop()
        await it.until("deployment", "greet", lambda found: "runtimes:2" in str(found["spec"]), 180)
        taken = await it.get("function", "greet")
        assert taken["status"]["installation"]["name"] == "b/two"
