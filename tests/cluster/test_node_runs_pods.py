"""The cluster with one node that the tests of this tier use."""

import asyncio
import json
import sys
from pathlib import Path

import psutil
import pytest
from servers.images import PYTHON
from servers.kubernetes_node import CGROUPS, Node, node

PLACES = ("/run/containerd", "/run/netns", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods")
ANSWER = """
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["HOSTNAME"].encode())
http.server.ThreadingHTTPServer(("", 8080), Answer).serve_forever()
"""
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


@pytest.mark.timeout(180)  # a whole cluster starts within it: 15 seconds alone, a minute on a busy machine
async def test_a_pod_answers_over_its_service_by_address_and_by_name_and_nothing_is_left():
    before = [sorted(Path(place).rglob("*")) for place in PLACES]
    async with node() as cluster:
        await cluster.kubectl("apply", "-f", "-", input=_deployment_and_service())
        await cluster.kubectl("rollout", "status", "deployment/answer", "--timeout=30s")
        address = await cluster.kubectl("get", "service", "answer", "-o", "jsonpath={.spec.clusterIP}")
        name = await cluster.kubectl("get", "pods", "-l", "app=answer", "-o", "jsonpath={.items[0].metadata.name}")

        assert await _fetched(cluster, f"http://{address}") == name
        inside_pod = ("exec", "deployment/answer", "--", "python3", "-c", FETCH, "http://answer.default.svc")
        assert (await cluster.kubectl(*inside_pod)).strip() == name
        assert "GET / HTTP/1.1" in await cluster.kubectl("logs", "deployment/answer")
        everyone = psutil.Process(cluster.processes["unshare"].pid).children(recursive=True)
        everyone += [psutil.Process(process.pid) for process in cluster.processes.values()]
        folder = cluster.folder
    assert len(everyone) > 8
    assert not any(process.is_running() for process in everyone)
    assert not folder.exists()
    assert not list(CGROUPS.rglob(f"*{folder.name}*"))
    assert [sorted(Path(place).rglob("*")) for place in PLACES] == before


async def _fetched(cluster: Node, url: str) -> str:
    """The answer, after the Service's rules have reached the kernel."""
    async with asyncio.timeout(20):
        while True:
            try:
                return (await cluster.execute(sys.executable, "-c", FETCH, url)).strip()
            except AssertionError:
                await asyncio.sleep(0.2)


def _deployment_and_service() -> str:
    labels = {"app": "answer"}
    container = {
        "name": "answer",
        "image": PYTHON,
        "imagePullPolicy": "Never",
        "command": ["python3", "-uc", ANSWER],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    pod = {"containers": [container], "terminationGracePeriodSeconds": 0}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "answer"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "answer"},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [deployment, service]})
