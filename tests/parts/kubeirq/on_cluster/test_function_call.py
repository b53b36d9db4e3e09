"""`kubeirq call` on a cluster: by a port-forward to a pod, or through the proxy of the API server.

The test stands in for the API server and the node. The function is a real runtime.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, WSMsgType, web
from kubernetes.aio.client import ApiClient, Configuration
from servers.function import function

from kubeirq.fabric_client import Answer, Refused
from kubeirq.on_cluster.connection import AccessDenied, Cluster
from kubeirq.on_cluster.function_call import call_function

HANDLER = """
import os

def handler(event, context):
    if event["data"] == b"end":
        os._exit(3)
    headers = event["extensions"]["request"]["headers"]
    return {"heard": event["data"].decode(), "authorization": headers.get("authorization")}
"""


def pod(name: str, ready: str = "True", **metadata: str) -> dict[str, Any]:
    created = {"name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z", **metadata}
    return {"metadata": created, "status": {"conditions": [{"type": "Ready", "status": ready}]}}


@dataclass
class FarSide:
    """An API server and a node with pods of the function `tax`."""

    url: str  # of the function
    may_forward: bool = True
    may_proxy: bool = True
    proxy_reaches: bool = True
    pods: list[dict[str, Any]] = field(
        default_factory=lambda: [pod("starts", "False"), pod("serves"), pod("ends", deletionTimestamp="x")]
    )
    ways: list[str] = field(default_factory=list)

    def application(self) -> web.Application:
        application = web.Application()
        default = "/api/v1/namespaces/default"
        application.add_routes(
            [
                web.get(f"{default}/pods", self.listed),
                web.get(f"{default}/pods/{{pod}}/portforward", self.forward),
                web.post(f"{default}/services/tax:8080/proxy/", self.proxy),
            ]
        )
        return application

    async def listed(self, request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "kubeirq.dev/function=tax"
        return web.json_response({"items": self.pods, "metadata": {}})

    async def forward(self, request: web.Request) -> web.StreamResponse:
        if not self.may_forward:
            return status(403, "pods is forbidden")
        assert request.query["ports"] == "8080"
        self.ways.append(request.match_info["pod"])
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        for channel in (b"\x00", b"\x01"):
            await socket.send_bytes(channel + (8080).to_bytes(2, "little"))
        address = urlsplit(self.url)
        try:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
        except OSError:
            await socket.send_bytes(b"\x01error forwarding port 8080 to pod: connection refused")
            await socket.close()
            return socket

        async def back() -> None:
            while data := await reader.read(100):
                await socket.send_bytes(b"\x00" + data)
            await socket.close()

        returning = asyncio.create_task(back())
        async for message in socket:
            assert message.type is WSMsgType.BINARY and message.data[0] == 0
            writer.write(message.data[1:])
        writer.close()
        await returning
        return socket

    async def proxy(self, request: web.Request) -> web.Response:
        if not self.may_proxy:
            return status(403, 'services "tax" is forbidden')
        if not self.proxy_reaches:
            return status(503, "error trying to reach service: dial tcp: i/o timeout")
        self.ways.append("proxy")
        async with (
            ClientSession() as session,
            session.post(self.url, data=await request.read(), headers=request.headers) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read())


def status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "apiVersion": "v1", "message": message}, status=code)


@asynccontextmanager
async def cluster_of(far_side: FarSide) -> AsyncIterator[Cluster]:
    runner = web.AppRunner(far_side.application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0]
        async with ApiClient(Configuration(host=f"http://{host}:{port}")) as client:
            yield Cluster(client, "test", "default")
    finally:
        await runner.cleanup()


async def call(cluster: Cluster, body: bytes, **headers: str) -> Answer:
    named = {"content-type": "application/octet-stream", **headers}
    return await call_function(cluster, "default", "tax", named, body)


async def test_a_call_goes_to_a_ready_pod_by_a_port_forward_with_all_of_its_headers() -> None:
    async with function(HANDLER) as served, cluster_of(far_side := FarSide(served.url)) as cluster:
        answer = await call(cluster, b"x" * 300_000, authorization="Bearer mine")
        assert (answer.status, json.loads(answer.body)) == (
            200,
            {"heard": "x" * 300_000, "authorization": "Bearer mine"},
        )
        assert far_side.ways == ["serves"]


async def test_without_the_right_to_a_port_forward_a_call_goes_through_the_proxy() -> None:
    async with function(HANDLER) as served, cluster_of(far_side := FarSide(served.url, may_forward=False)) as cluster:
        assert json.loads((await call(cluster, b"two")).body)["heard"] == "two"
        assert far_side.ways == ["proxy"]
        with pytest.raises(Refused, match=r"--header authorization needs .* get and create for pods/portforward"):
            await call(cluster, b"two", authorization="Bearer mine")
        far_side.proxy_reaches = False
        with pytest.raises(Refused, match=r"NetworkPolicy .* get and create for pods/portforward in namespace default"):
            await call(cluster, b"two")
        far_side.may_proxy = False
        with pytest.raises(AccessDenied, match=r"pods/portforward in namespace default; nor create for services/proxy"):
            await call(cluster, b"two")


async def test_a_call_without_an_answer_says_why() -> None:
    async with function(HANDLER) as served, cluster_of(far_side := FarSide(served.url)) as cluster:
        with pytest.raises(Refused, match=r"the function gave no answer: pod serves: "):
            await call(cluster, b"end")
        far_side.url = "http://127.0.0.1:1/"
        with pytest.raises(Refused, match=r"error forwarding port 8080 to pod: connection refused"):
            await call(cluster, b"two")
