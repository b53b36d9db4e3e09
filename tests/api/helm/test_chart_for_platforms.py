"""The chart within the rules of a platform: in a parent chart, on OpenShift, with an earlier chart's values."""

import asyncio
import base64
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.controllers import resource
from servers.helm import CHART, RELEASE, HelmError, installed, release, rendered, server_for_the_chart
from servers.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_DEFINITIONS = {"crds": {"install": False}}
# Helpers of a neighbour have names that many charts use
NEIGHBOUR = """{{- define "labels" -}}a: b{{- end -}}
{{- define "fullname" -}}neighbour{{- end -}}
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ include "fullname" . }}, labels: {{ "{" }}{{ include "labels" . }}{{ "}" }}}
"""


def parent(folder: Path, *dependencies: dict[str, Any]) -> Path:
    """A chart with a neighbour and these dependencies on kubeirq."""
    made = folder / "parent"
    shutil.copytree(CHART, made / "charts" / "kubeirq")
    (made / "charts" / "web" / "templates").mkdir(parents=True)
    (made / "charts" / "web" / "templates" / "all.yaml").write_text(NEIGHBOUR)
    (made / "charts" / "web" / "Chart.yaml").write_text("{apiVersion: v2, name: web, version: 1.0.0}")
    own = [{"name": "kubeirq", "version": "0.1.0", **found} for found in dependencies]
    chart = {"apiVersion": "v2", "name": "parent", "version": "1.0.0"}
    chart["dependencies"] = [*own, {"name": "web", "version": "1.0.0"}]
    (made / "Chart.yaml").write_text(json.dumps(chart))
    return made


def pods_of(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every pod of the objects, as its spec."""
    for found in objects:
        if found["kind"] in ("Deployment", "StatefulSet"):
            yield found["spec"]["template"]["spec"]
        elif found["kind"] == "Pod":
            yield found["spec"]


def containers_of(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for pod in pods_of(objects):
        yield from (*pod.get("initContainers", ()), *pod["containers"])


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


async def test_a_parent_chart_gives_it_an_alias_a_condition_a_registry_and_pull_secrets(tmp_path: Path) -> None:
    chart = parent(tmp_path, {"alias": "events", "condition": "events.enabled"})
    values = {
        "events": {
            "enabled": True,
            "imagePullSecrets": ["own"],
            "plugins": [{"kind": "RedisTrigger", "image": "r/a:1"}],
        },
        "global": {"imageRegistry": "mirror:5000", "imagePullSecrets": [{"name": "all"}], "others": {"a": 1}},
    }
    found = await rendered(values, release="shop", chart=chart)
    own = [one for one in found if one["kind"] != "CustomResourceDefinition" and one["metadata"]["name"] != "neighbour"]
    assert all(one["metadata"]["name"].startswith("shop-events-") for one in own)
    # the command line finds the controllers by this label
    assert {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in own} == {"kubeirq"}
    for deployment in (one for one in own if one["kind"] == "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert {one["image"] for one in containers_of(own)} == {
        "mirror:5000/kubeirq/controllers:0.1.0",
        "mirror:5000/r/a:1",
    }
    assert all(pod["imagePullSecrets"] == [{"name": "all"}, {"name": "own"}] for pod in pods_of(own))
    off = await rendered({"events": {"enabled": False}}, release="shop", chart=chart)
    assert [one["kind"] for one in off] == ["ConfigMap"]


async def test_an_image_with_a_registry_of_its_own_stays_there() -> None:
    values = {"image": {"repository": "quay.io/kubeirq/controllers"}, "global": {"imageRegistry": "mirror:5000"}}
    assert {one["image"] for one in containers_of(await rendered({**values, **WITHOUT_DEFINITIONS}))} == {
        "quay.io/kubeirq/controllers:0.1.0"
    }


async def test_two_aliases_in_one_release_are_refused(tmp_path: Path) -> None:
    chart = parent(tmp_path, {"alias": "blue"}, {"alias": "green"})
    with pytest.raises(HelmError, match="are both kubeirq, and two in a namespace share their Leases"):
        await rendered({"green": WITHOUT_DEFINITIONS}, chart=chart)


async def test_on_openshift_no_pod_names_a_user_and_the_rest_stays_restricted() -> None:
    found = await rendered({**WITHOUT_DEFINITIONS, "openshift": {"enabled": True}})
    for pod in pods_of(found):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["securityContext"].keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (functions,) = named(found, "Deployment", "kubeirq-functions")["spec"]["template"]["spec"]["containers"]
    assert {"name": "KUBEIRQ_FIXED_USER", "value": "false"} in functions["env"]


async def test_a_given_field_of_a_security_context_replaces_the_charts_and_null_leaves_it_out() -> None:
    values = {
        "podSecurityContext": {"runAsUser": 1000, "fsGroup": None, "supplementalGroups": [7]},
        "securityContext": {"readOnlyRootFilesystem": False},
    }
    found = await rendered({**WITHOUT_DEFINITIONS, **values})
    for pod in pods_of(found):
        assert pod["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 65532, "supplementalGroups": [7],
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
    for container in containers_of(found):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": False, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip


async def test_an_upgrade_that_reuses_the_values_of_the_first_version_is_as_one_with_the_new_defaults(
    tmp_path: Path,
) -> None:
    """`helm upgrade --reuse-values` gives a chart no default that the installed chart did not have."""
    reused = tmp_path / "kubeirq"
    shutil.copytree(CHART, reused)
    shutil.copy(ROOT / "tests" / "recorded" / "values_0_1_0.yaml", reused / "values.yaml")
    secrets = {"store": {"embedded": {"existingSecret": "login"}}, "adminApi": {"existingSecret": "certificate"}}
    found, expected = await rendered(secrets, chart=reused), await rendered(secrets)
    assert yaml.safe_dump_all(found) == yaml.safe_dump_all(expected)
    assert any(one["metadata"]["name"] == "kubeirq-admin" for one in await rendered(chart=reused))


# --- fields that a platform sets


async def test_common_labels_are_on_every_object_and_pod_and_replace_none_of_the_charts() -> None:
    wanted = {"team": "a", "app.kubernetes.io/name": "other", "app.kubernetes.io/component": "other"}
    plain = list(labels_of(await rendered(WITHOUT_DEFINITIONS)))
    found = list(labels_of(await rendered({**WITHOUT_DEFINITIONS, "commonLabels": wanted})))
    assert found == [{**wanted, **labels} for labels in plain]


def labels_of(objects: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """The labels of each object, and of its pods."""
    for found in objects:
        yield found["metadata"]["labels"]
        if found["kind"] in ("Deployment", "StatefulSet"):
            yield found["spec"]["template"]["metadata"]["labels"]


async def test_extra_objects_and_volumes_are_as_they_are_given() -> None:
    volume, mount = {"name": "ca", "configMap": {"name": "ca"}}, {"name": "ca", "mountPath": "/etc/ca"}
    extra = {"extraVolumes": [volume], "extraVolumeMounts": [mount]}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-a"}}
    found = await rendered(
        {
            **WITHOUT_DEFINITIONS,
            "controllerDefaults": extra,
            "store": {"embedded": extra},
            "extraObjects": [config_map, json.dumps(config_map).replace("-a", "-b")],
        }
    )
    for name in ("a", "b"):
        assert named(found, "ConfigMap", f"kubeirq-{name}")
    for pod in (one for one in pods_of(found) if one.get("restartPolicy") != "Never"):
        assert volume in pod["volumes"]
        assert mount in pod["containers"][0]["volumeMounts"]


async def test_service_accounts_may_exist_already_or_have_names_of_their_own() -> None:
    found = await rendered(
        {
            **WITHOUT_DEFINITIONS,
            "controllerDefaults": {"serviceAccount": {"create": False, "name": "ours"}},
            "controllers": {"http": {"serviceAccount": {"create": True, "name": "gate"}}},
            "store": {"embedded": {"serviceAccount": {"create": False, "name": "theirs"}}},
        }
    )
    accounts = {pod.get("serviceAccountName") for pod in pods_of(found)} - {None}
    assert accounts == {"ours", "gate", "theirs"}
    assert [one["metadata"]["name"] for one in found if one["kind"] == "ServiceAccount"] == ["gate"]
    bindings = [one for one in found if one["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    subjects = [[subject["name"] for subject in one["subjects"]] for one in bindings]
    assert {name for names in subjects for name in names} == {"ours", "gate", "system:authenticated"}
    assert all(len(names) == len(set(names)) for names in subjects)
    (shared,) = [
        one["metadata"]["name"]
        for one in await rendered({**WITHOUT_DEFINITIONS, "controllerDefaults": {"serviceAccount": {"name": "one"}}})
        if one["kind"] == "ServiceAccount" and one["metadata"]["name"] != "kubeirq-store"
    ]
    assert shared == "one"


async def test_an_autoscaler_of_the_gateway_takes_the_place_of_its_replicas() -> None:
    scaling = {"enabled": True, "minReplicas": 3, "maxReplicas": 9, "cpuPercent": 50}
    service = {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]}
    values = {"gateway": {"autoscaling": scaling, "service": service}, "controllers": {"http": {"replicas": 1}}}
    found = await rendered({**WITHOUT_DEFINITIONS, **values})
    spec = named(found, "HorizontalPodAutoscaler", "kubeirq-http")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 9)
    assert "replicas" not in named(found, "Deployment", spec["scaleTargetRef"]["name"])["spec"]
    assert named(found, "Deployment", "kubeirq-kafka")["spec"]["replicas"] == 2
    assert named(found, "PodDisruptionBudget", "kubeirq-http")
    assert named(found, "Service", "kubeirq-gateway")["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]


async def test_a_pod_monitor_of_functions_selects_their_pods() -> None:
    metrics = {"metrics": {"functions": {"podMonitor": {"enabled": True, "labels": {"release": "p"}}}}}
    for values, where in (({}, {"any": True}), ({"watchNamespace": "apps"}, {"matchNames": ["apps"]})):
        monitor = named(await rendered({**WITHOUT_DEFINITIONS, **metrics, **values}), "PodMonitor", "kubeirq-functions")
        assert monitor["metadata"]["labels"]["release"] == "p"
        assert monitor["spec"]["namespaceSelector"] == where
        assert monitor["spec"]["selector"]["matchExpressions"] == [
            {"key": "kubeirq.dev/function", "operator": "Exists"}
        ]


# --- helm test


@asynccontextmanager
async def answering(status: int, certificate: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port that answers each request with this status."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} \r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificate) as server:
        yield server.sockets[0].getsockname()[1]


async def test_helm_test_asks_the_gateway_and_each_admin_port(tmp_path: Path) -> None:
    objects = await rendered(WITHOUT_DEFINITIONS)
    pod = named(objects, "Pod", "kubeirq-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    script, *urls = container["args"]
    admin_ports = [f"https://kubeirq-{name}-admin:9443/v1/replicas" for name in ("http", "cron", "kafka", "nats")]
    assert urls == ["http://kubeirq-gateway:80/", *admin_ports]

    for name, text in named(objects, "Secret", "kubeirq-admin")["data"].items():
        (tmp_path / name).write_bytes(base64.b64decode(text))
    certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")

    async def ended(*asked: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *asked, stdout=subprocess.PIPE)
        written, _ = await process.communicate()
        return process.returncode, written.decode()

    async with (
        answering(404) as gateway,
        answering(401, certificate) as admin,
        answering(200, certificate) as open_port,
    ):
        good = (f"http://127.0.0.1:{gateway}/", f"https://127.0.0.1:{admin}/v1/replicas")
        assert (await ended(*good))[0] == 0
        status, written = await ended(f"http://127.0.0.1:{free_port()}/", *good)
        assert (status, "does not answer" in written) == (1, True)
        status, written = await ended(*good, f"https://127.0.0.1:{open_port}/v1/replicas")
        assert (status, "answers 200, not 401" in written) == (1, True)


async def test_the_network_policy_of_the_gateway_lets_the_test_in() -> None:
    for peers in ([], [{"podSelector": {"matchLabels": {"a": "b"}}}]):
        found = await rendered({**WITHOUT_DEFINITIONS, "networkPolicy": {"gatewayFrom": peers}})
        labels = named(found, "Pod", "kubeirq-test")["metadata"]["labels"]
        rules = named(found, "NetworkPolicy", "kubeirq-http")["spec"]["ingress"]
        (rule,) = [one for one in rules if one["ports"][0]["port"] == "gateway"]
        selectors = [peer["podSelector"]["matchLabels"] for peer in rule.get("from", ())]
        assert not peers or any(selector.items() <= labels.items() for selector in selectors)


# --- on a server


@pytest.mark.timeout(400)
async def test_pods_fit_a_quota_the_default_runtime_is_the_values_and_an_upgrade_keeps_the_scale() -> None:
    both = {"cpu": "100m", "memory": "128Mi"}
    resources = {"requests": both, "limits": both}
    values = {
        "controllerDefaults": {"resources": resources},
        "store": {"embedded": {"resources": resources}},
        "functions": {"defaultRuntime": "python3.11"},
        "gateway": {"autoscaling": {"enabled": True}},
        "commonLabels": {"team": "a"},
        "metrics": {"functions": {"podMonitor": {"enabled": True}}},
        "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}}],
    }
    async with server_for_the_chart() as server:
        hard = {f"{part}.{name}": "10000" for part in ("requests", "limits") for name in ("cpu", "memory")}
        hard = {name: f"{text}Gi" if "memory" in name else text for name, text in hard.items()}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "spec": {"hard": hard}}
        quota["metadata"] = {"name": "quota", "namespace": RELEASE}
        await server.kubectl("apply", "-f", "-", input=json.dumps(quota))
        path = "jsonpath={.status.hard}"
        async with asyncio.timeout(60):  # a controller fills it in; until then the server admits no pod
            while not await server.kubectl("get", "resourcequota", "quota", "-n", RELEASE, "-o", path):
                await asyncio.sleep(0.1)
        async with installed(server, values):
            await server.kubectl("get", "configmap", "kubeirq-extra", "-n", RELEASE)
            async with asyncio.timeout(120):
                while len((await server.kubectl("get", "pods", "-n", RELEASE, "-o", "name")).split()) < 10:
                    await asyncio.sleep(0.2)
            await server.kubectl(
                "apply", "-f", "-", input=json.dumps(resource("Function", "f", {"source": {"inline": ""}}))
            )
            runtimes = ("get", "functions", "-A", "-o", "jsonpath={.items[*].spec.runtime}")
            assert await server.kubectl(*runtimes) == "python3.11"
            await server.kubectl("scale", "deployment", "kubeirq-http", "--replicas=7", "-n", RELEASE)
            await release(server, "upgrade", {**values, "functions": {"defaultRuntime": "python3.12"}})
            get = ("get", "deployment", "kubeirq-http", "-n", RELEASE, "-o", "jsonpath={.spec.replicas}")
            assert await server.kubectl(*get) == "7"
            new = json.dumps(resource("Function", "g", {"source": {"inline": ""}}))
            ask = ("create", "--dry-run=server", "-o", "jsonpath={.spec.runtime}", "-f", "-")
            async with asyncio.timeout(60):  # the server takes a changed definition over a moment later
                while await server.kubectl(*ask, input=new) != "python3.12":
                    await asyncio.sleep(0.1)
            assert await server.kubectl(*runtimes) == "python3.11"
