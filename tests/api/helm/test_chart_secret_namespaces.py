"""Namespaces with Secrets that come and go: with the chart's values, and by a RoleBinding without an upgrade."""

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from servers.controllers import Cluster, condition, resource
from servers.helm import RELEASE, installed, release, rendered, server_for_the_chart, started
from servers.kubernetes import APIServer
from servers.kubernetes_objects import connected, kinds_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

VALUES = {"secretNamespaces": ["apps", "team-x"]}
SECRET = {"stringData": {"users": "someone:secret"}}
AUTH = {"auth": {"basic": {"users": {"name": "creds", "key": "users"}}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[APIServer]:
    async with server_for_the_chart() as found:
        yield found


async def granted(server: APIServer) -> list[str]:
    """The namespaces with the Role for Secrets."""
    roles: Any = json.loads(await server.kubectl("get", "roles", "-A", "-o", "json"))
    return sorted(found["metadata"]["namespace"] for found in roles["items"] if is_for_secrets(found))


def is_for_secrets(role: Any) -> bool:
    return bool(role["metadata"]["name"] == "kubeirq-secrets")


async def test_an_upgrade_works_after_a_namespace_is_gone_and_finds_it_when_it_is_back(server: APIServer) -> None:
    await server.kubectl("create", "namespace", "team-x")
    async with installed(server, VALUES):
        assert await granted(server) == ["apps", "team-x"]
        await server.kubectl("delete", "namespace", "team-x", "--wait", "--timeout=60s")
        notes = await release(server, "upgrade", VALUES)
        assert "there is no namespace team-x" in " ".join(notes.split())
        assert await granted(server) == ["apps"]
        await server.kubectl("create", "namespace", "team-x")
        notes = await release(server, "upgrade", VALUES)
        assert "there is no namespace" not in " ".join(notes.split())
        assert await granted(server) == ["apps", "team-x"]


async def test_an_upgrade_works_while_a_namespace_is_being_deleted(server: APIServer) -> None:
    await server.kubectl("create", "namespace", "team-y")
    values = {"secretNamespaces": ["apps", "team-y"]}
    kept = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept", "finalizers": ["a.example/b"]}}
    await server.kubectl("create", "-n", "team-y", "-f", "-", input=json.dumps(kept))
    try:
        async with installed(server, values):
            await server.kubectl("delete", "namespace", "team-y", "--wait=false")
            await server.kubectl("wait", "--for=delete", "role/kubeirq-secrets", "-n", "team-y", "--timeout=60s")
            await release(server, "upgrade", values)
            assert await granted(server) == ["apps"]
    finally:
        away = ("-p", '{"metadata": {"finalizers": null}}', "--type=merge")
        await server.kubectl("patch", "configmap", "kept", "-n", "team-y", *away)


async def state_of(it: Cluster, namespace: str) -> tuple[str, str]:
    """Reason and message of the trigger's condition Connected."""
    found = condition(await it.get("httptrigger", "t", namespace), "Connected")
    return found["reason"], found.get("message", "")


async def until_connected(it: Cluster, namespace: str, reason: str) -> str:
    """The message, as soon as the condition has that reason."""
    found = ("", "")
    try:
        async with asyncio.timeout(45):
            while (found := await state_of(it, namespace))[0] != reason:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{found}\n{it.logs()}") from None
    return found[1]


async def test_a_namespace_is_allowed_by_what_the_condition_says_to_type_and_concerns_no_other(
    server: APIServer, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        await server.kubectl("create", "namespace", name)
    async with installed(server), connected(server) as api:
        it = Cluster(server, tmp_path, api, await kinds_of(api))
        await server.kubectl("create", "rolebinding", "owner", "--clusterrole=admin", "--user=owner", "-n", "one")
        await server.kubectl("create", "rolebinding", "owner", "--clusterrole=admin", "--user=owner", "-n", "two")
        deployments = {found["metadata"]["name"]: found for found in await rendered() if found["kind"] == "Deployment"}
        controller = await started(it, deployments["kubeirq-http"])
        try:
            for name in ("one", "two"):
                trigger = resource("HTTPTrigger", "t", {"url": "http://127.0.0.1:1/", "path": f"/{name}", **AUTH}, name)
                await it.apply(resource("Secret", "creds", SECRET, name), trigger)
            for name in ("one", "two"):
                said = await until_connected(it, name, "SecretForbidden")
                _, _, command = said.partition("types: kubectl ")
                assert f"--namespace={name}" in command
                await server.kubectl(*shlex.split(command), "--as=owner")
                await until_connected(it, name, "Connected")
            await server.kubectl("delete", "namespace", "one", "--wait", "--timeout=60s")
            await server.kubectl("delete", "secret", "creds", "-n", "two")
            await until_connected(it, "two", "SecretMissing")
            await it.apply(resource("Secret", "creds", SECRET, "two"))
            await until_connected(it, "two", "Connected")
            assert RELEASE in (await it.get("rolebinding", "kubeirq-http-secrets", "two"))["subjects"][0]["namespace"]
        finally:
            await controller.kill()
            await server.kubectl("delete", "namespace", "one", "two", "--ignore-not-found", "--wait=false")
