"""The chart: its rendered objects for given values, and their installation on a real API server."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from servers.controllers import resource
from servers.helm import CHART, NAMESPACES, RELEASE, HelmError, helm, installed, release, rendered, server_for_the_chart
from servers.kubernetes import APIServer

from controllers.definitions.crds import yaml_of

ROOT = Path(__file__).resolve().parents[3]
BUILT_IN = ("functions", "http", "cron", "kafka", "nats")
NARROWED = {"watchNamespace": "apps", "secretNamespaces": ["apps", RELEASE]}
PLUGINS = {
    "plugins": [
        {"kind": "RedisTrigger", "group": "example.com", "image": "example/redis:1"},
        {"kind": "MailTrigger", "image": "example/mail:1", "replicas": 1, "env": [{"name": "A", "value": "b"}]},
    ]
}
POD = {
    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
    "podLabels": {"team": "a", "app.kubernetes.io/component": "not this"},
    "podAnnotations": {"a.b/c": "d"},
}
SPREAD = {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
MONITOR = {"enabled": True, "labels": {"release": "prometheus"}, "interval": "10s"}
EVERYTHING: dict[str, Any] = {
    "image": {"repository": "mirror:5000/kubeirq/controllers", "digest": f"sha256:{'a' * 64}"},
    "global": {"imageRegistry": "mirror:5000", "imagePullSecrets": [{"name": "all"}]},
    "imagePullSecrets": ["pull"],
    "podSecurityContext": {"supplementalGroups": [7]},
    "securityContext": {"privileged": False},
    "openshift": {"enabled": True},
    "commonLabels": {"team": "a"},
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extra"}}],
    "logLevel": "debug",
    "secretNamespaces": list(NAMESPACES),
    "reach": {"allow": ["pay.shop.svc", "*.corp.example", "10.0.0.0/8", "fd00::/8"]},
    "graceSeconds": 120,
    "controllerDefaults": {
        **POD,
        "replicas": 3,
        "topologySpreadConstraints": [SPREAD],
        "serviceAccountAnnotations": {"cloud/role": "r"},
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "serviceAccount": {"create": False},
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
    },
    "controllers": {"http": {"replicas": 5, "nodeSelector": {"edge": "yes"}}, "cron": {"replicas": 1}},
    **PLUGINS,
    "runtimes": {"image": {"repository": "mirror:5000/runtimes", "tag": "2"}},
    "functions": {
        "images": {"python3.12": "mirror:5000/python:3.12"},
        "imagePullPolicy": "Always",
        "defaultRuntime": "python3.12",
        "initResources": {"limits": {"memory": "1Gi"}},
        "packageIndex": {"url": "https://a", "extraUrls": ["https://b", "https://c"], "trustedHosts": ["b", "c:8"]},
    },
    "gateway": {
        "service": {
            "type": "LoadBalancer", "port": 8000, "nodePort": 30080, "loadBalancerClass": "a.b/c",
            "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "annotations": {"a.b/c": "d"}, "labels": {"a": "b"},
        },
        "ingress": {
            "enabled": True, "className": "nginx", "annotations": {"a.b/c": "d"}, "hosts": ["a.example", "b.example"],
            "tlsSecretName": "cert",
        },
    },
    "kafka": {"brokers": ["a:9092", "b:9092"]},
    "nats": {"servers": ["nats://c:4222"]},
    "store": {"embedded": {**POD, "persistence": {"size": "20Gi", "storageClass": "fast"}, "existingSecret": "login"}},
    "metrics": {"serviceMonitor": MONITOR, "podMonitor": MONITOR, "functions": {"podMonitor": MONITOR}},
    "networkPolicy": {"gatewayFrom": [PEER], "metricsFrom": [PEER], "eventsFrom": [PEER], "triggersTo": [PEER]},
}  # fmt: skip
OWN_STORE = {
    "store": {
        "nats": {"servers": ["tls://a:4222", "tls://b:4222"], "replicas": 3, "credentials": {"secretName": "login"}}
    }
}
BARE = {
    "crds": {"install": False},
    "rbac": {"create": False, "userRoles": False},
    "networkPolicy": {"enabled": False},
    "store": {"embedded": {"enabled": False}},
    "controllers": {"http": {"enabled": False}, "cron": {"enabled": False}},
}
NOTHING = {
    **BARE,
    "rbac": {"create": True},
    "controllers": {name: {"enabled": False} for name in ("functions", "http", "cron", "kafka", "nats")},
}
LOSES = {"store": {"embedded": {"persistence": {"enabled": False}, "events": {"enabled": False}}}}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {}, "everything": EVERYTHING, "narrowed": NARROWED, "plugins": PLUGINS, "own store": OWN_STORE,
    "bare": BARE, "nothing": NOTHING, "no volume": LOSES,
}  # fmt: skip

TYPOS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"controllers": {"http": {"replica": 3}}}, "at '/controllers/http': additional properties 'replica' not allowed"),
    ({"kafka": {"broker": "a:9092"}}, "at '/kafka': additional properties 'broker' not allowed"),
    ({"kafka": {"brokers": "a:9092"}}, "at '/kafka/brokers': got string, want array"),
    ({"kafka": {"brokers": ["kafka://a"]}}, "at '/kafka/brokers/0': 'kafka://a' does not match pattern"),
    ({"nats": {"servers": ["a:4222"]}}, "at '/nats/servers/0': 'a:4222' does not match pattern"),
    ({"reach": {"allow": ["http://a.example"]}}, "at '/reach/allow/0': 'http://a.example' does not match pattern"),
    ({"graceSeconds": "30s"}, "at '/graceSeconds': got string, want integer"),
    ({"plugins": [{"kind": "RedisTrigger"}]}, "at '/plugins/0': missing property 'image'"),
    ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent'"),
    ({"store": {"embedded": {"persistence": {"size": "8 GB"}}}}, "at '/store/embedded/persistence/size': '8 GB' does"),
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[APIServer]:
    async with server_for_the_chart() as found:
        yield found


# --- rendered objects


async def test_helm_finds_nothing_to_complain_about() -> None:
    for values in CASES.values():
        assert "0 chart(s) failed" in await helm("lint", "--strict", str(CHART), values=values)


@pytest.mark.parametrize("case", CASES)
async def test_a_server_takes_every_object_without_a_warning(server: APIServer, case: str) -> None:
    # the claim of a store stays when a test has uninstalled its release, and the size of a claim cannot be changed
    await server.kubectl("delete", "persistentvolumeclaims", "--all", f"--namespace={RELEASE}", "--timeout=20s")
    text = yaml_of(await rendered(CASES[case]))
    # forced, because a release of another test leaves its definitions, which differ where a value is in them
    arguments = (
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "--warnings-as-errors",
        "-f",
        "-",
    )
    await server.kubectl(*arguments, input=text)


async def test_a_wrong_value_is_refused_with_its_place() -> None:
    for values, text in TYPOS:
        with pytest.raises(HelmError, match=re.escape(text)):
            await rendered(values)


async def test_all_names_begin_with_the_release() -> None:
    for given, name in (("kubeirq", "kubeirq"), ("kubeirq-blue", "kubeirq-blue"), ("blue", "blue-kubeirq")):
        found = {(found["kind"], found["metadata"]["name"]) for found in await rendered(release=given)}
        assert {("Service", f"{name}-gateway"), ("Deployment", f"{name}-http")} <= found
    named = await rendered({"fullnameOverride": "other"})
    assert all(found["metadata"]["name"].startswith("other-") or is_definition(found) for found in named)


async def test_the_chart_sets_exactly_the_variables_that_the_controllers_read() -> None:
    read = set()
    for file in (ROOT / "controllers").rglob("*.py"):
        read |= set(re.findall(r"environment(?:\.get\(|\[|, )\s*\"(KUBEIRQ_[A-Z_]+)\"", file.read_text()))
    found = set()
    for values in CASES.values():
        for deployment in filter(is_controller, await rendered(values)):
            found |= {name for name in environment_of(deployment) if name.startswith("KUBEIRQ_")}
    assert found - {"KUBEIRQ_STORE_PASSWORD"} == read  # that one is put into another by Kubernetes


async def test_every_chart_value_reaches_the_rendered_objects() -> None:
    deployments = {found["metadata"]["name"]: found for found in await rendered(EVERYTHING) if is_controller(found)}
    assert set(deployments) == {f"kubeirq-{name}" for name in (*BUILT_IN, "redis", "mail")}
    assert {name: found["spec"]["replicas"] for name, found in deployments.items()} == {
        **dict.fromkeys(deployments, 3), "kubeirq-http": 5, "kubeirq-cron": 1, "kubeirq-mail": 1,
    }  # fmt: skip
    http = pod_of(deployments["kubeirq-http"])
    assert http["nodeSelector"] == {"disk": "fast", "edge": "yes"}
    assert http["terminationGracePeriodSeconds"] > 120
    labels = deployments["kubeirq-http"]["spec"]["template"]["metadata"]["labels"]
    assert (labels["team"], labels["app.kubernetes.io/component"]) == ("a", "http")
    assert environment_of(deployments["kubeirq-http"])["KUBEIRQ_GATEWAY_URL"] == "https://a.example"
    functions = environment_of(deployments["kubeirq-functions"])
    assert functions["KUBEIRQ_RUNTIME_IMAGE"] == "mirror:5000/runtimes:2"
    assert json.loads(functions["KUBEIRQ_IMAGES"]) == {"python3.12": "mirror:5000/python:3.12"}
    assert functions["KUBEIRQ_EXTRA_PACKAGE_INDEXES"].split() == ["https://b", "https://c"]
    kafka = environment_of(deployments["kubeirq-kafka"])
    assert kafka["KUBEIRQ_KAFKA_BROKERS"].split() == ["a:9092", "b:9092"]
    assert kafka["KUBEIRQ_NATS_SERVERS"] == "nats://c:4222"
    assert kafka["KUBEIRQ_STORE_NATS_SERVERS"] == "nats://fabric:$(KUBEIRQ_STORE_PASSWORD)@kubeirq-store:4222"
    redis = pod_of(deployments["kubeirq-redis"])["containers"][0]
    assert (redis["image"], redis["args"]) == ("mirror:5000/example/redis:1", ["trigger", "redis"])
    (own,) = {
        environment_of(found).get("KUBEIRQ_STORE_NATS_SERVERS")
        for found in await rendered(OWN_STORE)
        if is_trigger(found)
    }
    assert own == "tls://a:4222 tls://b:4222"


# --- on a server


async def test_pods_are_admitted_upgrades_keep_the_password_and_removal_keeps_user_objects(
    server: APIServer,
) -> None:
    async def pods() -> list[Any]:
        return json.loads(await server.kubectl("get", "pods", "-n", RELEASE, "-o", "json"))["items"]

    async def password() -> str:
        return await server.kubectl("get", "secret", "kubeirq-store", "-n", RELEASE, "-o", "jsonpath={.data.password}")

    async with installed(server) as notes:
        assert "kubeirq-gateway" in notes
        assert "kafka.brokers is empty" in notes
        async with asyncio.timeout(20):  # no node runs them; the server does not admit a pod that is not restricted
            while len(await pods()) < 11:
                await asyncio.sleep(0.1)
        made_up = await password()
        assert len(base64.b64decode(made_up)) == 40
        hello = resource("Function", "hello", {"source": {"inline": ""}})
        await server.kubectl("apply", "-f", "-", input=json.dumps(hello))

        notes = await release(server, "upgrade", {**LOSES, "kafka": {"brokers": ["a:9092"]}})
        assert await password() == made_up
        assert "WARNING: store.embedded.persistence.enabled is false" in notes
        assert "kafka.brokers is empty" not in notes

    left = (
        "get",
        "clusterrole,clusterrolebinding,pvc",
        "-n",
        RELEASE,
        "-l",
        "app.kubernetes.io/name=kubeirq",
        "-o",
        "name",
    )
    assert (await server.kubectl(*left)).split() == ["persistentvolumeclaim/kubeirq-store"]
    assert "function.kubeirq.dev/hello" in await server.kubectl("get", "kubeirq", "-o", "name")
    async with installed(server):  # on top of the volume that is left
        pass


# --- objects


def is_definition(found: dict[str, Any]) -> bool:
    return bool(found["kind"] == "CustomResourceDefinition")


def is_controller(found: dict[str, Any]) -> bool:
    return bool(found["kind"] == "Deployment")


def is_trigger(found: dict[str, Any]) -> bool:
    return is_controller(found) and pod_of(found)["containers"][0]["args"][0] == "trigger"


def pod_of(found: dict[str, Any]) -> dict[str, Any]:
    template: dict[str, Any] = (
        found.get("spec", {}).get("template", {}) if found["kind"] in ("Deployment", "StatefulSet") else {}
    )
    return template.get("spec", {})


def environment_of(deployment: dict[str, Any]) -> dict[str, str]:
    (container,) = pod_of(deployment)["containers"]
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


@pytest.mark.timeout(120)
async def test_a_second_release_in_a_namespace_is_refused_and_the_first_is_upgraded(server: APIServer) -> None:
    async with installed(server):
        where = (str(CHART), f"--namespace={RELEASE}", "--set=crds.install=false,rbac.userRoles=false")
        with pytest.raises(HelmError, match=f"has release {RELEASE} of kubeirq already.*a namespace of its own"):
            await helm("install", "second", *where, kubeconfig=server.kubeconfig)
        await release(server, "upgrade")


async def test_functions_let_the_trigger_controllers_in_and_whom_the_values_name() -> None:
    monitoring = {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
    policy = {"from": [monitoring], "exposedFrom": [monitoring]}
    made = await rendered({"functions": {"networkPolicy": policy}})
    deployments = {d["metadata"]["name"]: d for d in made if d["kind"] == "Deployment"}
    fabric, other = json.loads(environment_of(deployments["kubeirq-functions"])["KUBEIRQ_CALLERS"])
    assert fabric["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": RELEASE}
    for deployment in deployments.values():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert fabric["podSelector"]["matchLabels"].items() <= labels.items()
    assert other == monitoring
    assert json.loads(environment_of(deployments["kubeirq-http"])["KUBEIRQ_EXPOSED_CALLERS"]) == [monitoring]
    made = await rendered({"functions": {"networkPolicy": {"enabled": False}}})
    variables = {name for d in made if d["kind"] == "Deployment" for name in environment_of(d)}
    assert not variables & {"KUBEIRQ_CALLERS", "KUBEIRQ_EXPOSED_CALLERS"}
