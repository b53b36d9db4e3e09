"""In namespaces that enforce the profile `restricted`, with a user that the cluster chooses, as on OpenShift."""

import json

import aiohttp
import pytest
from servers import images
from servers.cluster import Cluster, Namespace, function, named
from servers.helm import CHART, RELEASE, helm

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]

RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
USER = 1_000_650_000  # OpenShift gives each namespace a range of such users, and all of them the group 0
CHOSEN = {"runAsUser": USER, "runAsGroup": 0, "fsGroup": USER}


async def test_a_release_and_a_function_run_as_any_user_and_helm_test_passes(place: Namespace, cluster: Cluster):
    await restrict(place)
    who = "import os\n\ndef handler(event, context):\n    return {'user': os.getuid(), 'group': os.getgid()}\n"
    await place.apply(function("who", who, podTemplate={"spec": {"securityContext": CHOSEN}}))
    async with cluster.namespace() as own:
        await restrict(own)
        values = {
            "image": named(images.CONTROLLERS),
            "runtimes": {"image": named(images.RUNTIMES)},
            "watchNamespace": own.name,  # the release that the tests share watches the others
            "crds": {"install": False},
            "openshift": {"enabled": True},
            "podSecurityContext": CHOSEN,
            "controllerDefaults": {"replicas": 1},
            "store": {"embedded": {"persistence": {"enabled": False}}},
        }
        where = (f"--namespace={own.name}", "--timeout=200s")
        login = cluster.node.kubeconfig
        await helm("install", "strict", str(CHART), *where, "--wait", kubeconfig=login, values=values)
        try:
            pods = await own.all_of("Pod")
            assert {pod["spec"]["securityContext"]["runAsUser"] for pod in pods} == {USER}
            await helm("test", "strict", *where, kubeconfig=login)
        finally:
            await helm("uninstall", "strict", *where, kubeconfig=login)
    await helm("test", RELEASE, f"--namespace={RELEASE}", "--timeout=200s", kubeconfig=login)  # it has admin ports, too
    await place.until_ready("Function", "who")
    async with aiohttp.ClientSession() as session:
        async with session.post(f"http://{await place.until_reached('who')}:8080/") as answer:
            assert json.loads(await answer.text()) == {"user": USER, "group": 0}


# --- helpers


async def restrict(place: Namespace) -> None:
    labels = [f"{name}={value}" for name, value in RESTRICTED.items()]
    await place.cluster.node.kubectl("label", "namespace", place.name, *labels)
