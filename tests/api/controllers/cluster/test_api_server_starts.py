"""The API server that the tests of this tier use."""

import asyncio
import json

import psutil
import pytest
from servers.kubernetes import KubectlError, api_server
from servers.kubernetes_build.build import VERSION


async def test_the_api_server_creates_a_namespace_logs_it_and_leaves_no_process_behind():
    async with api_server() as server:
        pids = [process.pid for process in server.processes.values()]
        assert json.loads(await server.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"] == f"v{VERSION}"
        before = len(server.writes(user="admin"))
        await server.kubectl("create", "namespace", "counted")
        await server.kubectl("get", "namespace", "counted")
        await server.kubectl("apply", "-f", "-", input='{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"b"}}')
        writes = server.writes(user="admin", resource="namespaces")[before:]
        assert [(event["verb"], event["objectRef"]["name"]) for event in writes] == [
            ("create", "counted"),
            ("create", "b"),
        ]
        folder = server.folder
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not folder.exists()


async def test_a_failing_test_leaves_no_process_behind():
    with pytest.raises(ZeroDivisionError):
        async with api_server() as server:
            _ = 1 / 0
    assert not any(psutil.pid_exists(process.pid) for process in server.processes.values())


async def test_a_test_user_has_the_rights_of_its_roles_and_garbage_is_collected():
    async with api_server(controllers=True) as server:
        stranger = await server.kubeconfig_of("stranger", "visitors")
        with pytest.raises(KubectlError, match='User "stranger" cannot list resource "configmaps"'):
            await server.kubectl("get", "configmaps", kubeconfig=stranger)
        await server.kubectl("create", "clusterrolebinding", "visitors", "--clusterrole=view", "--group=visitors")
        assert "kube-root-ca.crt" in await server.kubectl("get", "configmaps", kubeconfig=stranger)

        await server.kubectl("create", "configmap", "owner")
        uid = await server.kubectl("get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}")
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
        owned = {"name": "owned", "ownerReferences": [owner]}
        await server.kubectl("apply", "-f", "-", input=_config_map(owned))
        await server.kubectl("delete", "configmap", "owner")
        async with asyncio.timeout(20):
            await server.kubectl("wait", "--for=delete", "configmap/owned", "--timeout=20s")


def _config_map(metadata: dict[str, object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
