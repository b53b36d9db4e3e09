"""The app guide in docs, on an API server without nodes: the commands for a cluster, but those that need pods."""

import os
import re
from pathlib import Path

import pytest
from servers.helm import server_for_the_chart
from servers.kubernetes import APIServer
from servers.kubernetes_build.build import programs
from servers.pages import blocks_of
from servers.terminals import BIN, Terminals, commands_of

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = list(blocks_of(ROOT / "docs" / "app-guide.md"))
NEED_PODS = re.compile(r"kubectl .*\b(port-forward|wait|exec)\b")
RESTRICTED = "kubectl label namespace shop pod-security.kubernetes.io/enforce=restricted"
pytestmark = pytest.mark.timeout(1200)


async def test_the_shop_is_deployed_to_a_cluster(tmp_path: Path) -> None:
    async with server_for_the_chart() as server, Terminals(tmp_path / "h", environment_of(server)) as they:
        (they.home / "kubeirq").symlink_to(ROOT)
        they.folder = they.home / "shop"
        for block in BLOCKS:
            if block.file is not None:
                block.write(they.folder)
        for command in commands():
            if NEED_PODS.match(command):
                print(f"not run, it needs pods: {command}")
                continue
            print(f"$ {command}")
            waits = " --no-wait" if command.startswith("kubeirq deploy ") else ""
            assert await they.run(command + waits) == 0, they.last_output
            if command == "kubectl create namespace shop":
                assert await they.run(RESTRICTED) == 0
            if "copy.yaml" in command:  # the volume that the page's pod has is the store's
                store = await value(server, "kubeirq", "statefulset/kubeirq-store", "{.spec.template.spec.volumes}")
                assert '"claimName":"kubeirq-store"' in store
                assert await value(server, "kubeirq", "pvc/kubeirq-store", "{.metadata.name}") == "kubeirq-store"
                assert await value(server, "kubeirq", "statefulset/kubeirq-store", "{.spec.replicas}") == "0"
        assert await value(server, "kubeirq", "statefulset/kubeirq-store", "{.spec.replicas}") == "1"
        assert await value(server, "kubeirq", "service/kubeirq-gateway", "{.spec.ports[0].port}") == "80"
        assert "kubeirq-http" in await value(server, "shop", "rolebinding/kubeirq-secrets", "{..subjects}")
        template = await value(server, "shop", "function/orders", "{.spec.podTemplate}")
        assert '"claimName":"orders"' in template
        for name in ("httptrigger/web", "crontrigger/daily", "natstrigger/stored", "secret/callers", "pvc/orders"):
            assert await value(server, "shop", name, "{.metadata.name}") == name.partition("/")[2]


def environment_of(server: APIServer) -> dict[str, str]:
    path = os.pathsep.join((str(BIN), str(programs()), os.environ["PATH"]))
    return {"KUBECONFIG": str(server.kubeconfig), "PATH": path}


async def value(server: APIServer, namespace: str, name: str, path: str) -> str:
    return await server.kubectl("get", f"--namespace={namespace}", name, f"--output=jsonpath={path}")


def commands() -> list[str]:
    """Of the cluster's section, and then the upgrade; but the page's own first lines for Secrets come first."""
    secrets = [
        command
        for block in BLOCKS
        if block.language == "console"
        for command in commands_of(block.text)
        if command.startswith(("mkdir -p -m 700 secrets", "printf "))
    ]
    cluster = [
        command
        for block in BLOCKS
        if block.language == "console" and block.section in ("On a cluster", "Upgrade")
        for command in commands_of(block.text)
        if not command.startswith("sudo ")
    ]
    return secrets + cluster
