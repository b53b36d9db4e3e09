"""Replicas of a trigger controller that know each other, as the chart's headless Service lets them."""

from dataclasses import dataclass, field
from pathlib import Path

from servers.certificates import Authority
from servers.controllers import SYSTEM, Cluster, Controller
from servers.ports import free_port, own_address

SERVICE = "kubeirq-admin"


@dataclass
class Replicas:
    """They share a certificate. An EndpointSlice of each says whether requests are sent to it."""

    cluster: Cluster
    kind: str
    certificate: Path
    running: dict[str, Controller] = field(default_factory=dict)

    async def start(self, name: str, *, is_ready: bool = True, **environment: str) -> Controller:
        port = free_port()
        found = await self.cluster.start(
            "trigger", self.kind, replica=name,
            KUBEIRQ_ADMIN_SOCKET=str(self.cluster.folder / f"{name}.sock"),
            KUBEIRQ_ADMIN_CERTIFICATE=str(self.certificate),
            KUBEIRQ_ADMIN_PORT=str(port),
            KUBEIRQ_ADMIN_PEERS=SERVICE,
            **environment,
        )  # fmt: skip
        self.running[name] = found
        await self.list_as(name, is_ready=is_ready, port=port)
        return found

    async def list_as(self, name: str, *, is_ready: bool, port: int | None) -> None:
        """Lists the replica, with the port or as one of a version that has none."""
        pod = f"trigger-{self.kind}-{name}"
        endpoint = {
            "addresses": [own_address()],
            "conditions": {"ready": is_ready},
            "targetRef": {"kind": "Pod", "name": pod, "namespace": SYSTEM},
        }
        await self.cluster.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{SERVICE}-{name}", "namespace": SYSTEM,
                    "labels": {"kubernetes.io/service-name": SERVICE},
                },
                "addressType": "IPv4",
                "endpoints": [endpoint],
                "ports": [] if port is None else [{"name": "admin", "port": port}],
            }
        )  # fmt: skip

    def gateways(self) -> list[str]:
        return [f"http://127.0.0.1:{found.port('KUBEIRQ_GATEWAY_PORT')}" for found in self.running.values()]


async def replicas(cluster: Cluster, kind: str) -> Replicas:
    """None runs yet."""
    folder = cluster.folder / "replicas"
    folder.mkdir()
    authority = Authority(folder)
    await authority.create()
    await authority.issue("tls", "/CN=replicas")
    return Replicas(cluster, kind, folder)
