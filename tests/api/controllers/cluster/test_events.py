"""Kubernetes Events on a real API server: kubectl shows them, and repeated ones are counted."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from servers.kubernetes import APIServer, api_server

from controllers.cluster.api import Api
from controllers.cluster.events import EventRecorder, NewEvent

FAILED = NewEvent(
    "Warning", "CrashLoopBackOff", "the function ended with exit code 3; the last lines of its log: no licence"
)


@asynccontextmanager
async def connected(server: APIServer) -> AsyncIterator[Api]:
    configuration = Configuration()
    await config.load_kube_config(str(server.kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        yield Api(client)


async def events_of(server: APIServer) -> list[dict[str, Any]]:
    text = await server.kubectl("get", "events", "--field-selector=involvedObject.kind=ConfigMap", "-o", "json")
    items: list[dict[str, Any]] = json.loads(text)["items"]
    return items


@pytest.mark.timeout(60)
async def test_kubectl_shows_events_and_counts_repeated_ones(caplog: pytest.LogCaptureFixture) -> None:
    async with api_server() as server, connected(server) as api:
        about = await api.create(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "greet", "namespace": "default"}}
        )
        events = EventRecorder(api, "kubeirq-functions")
        for _ in range(3):
            await events.record(about, FAILED)
        await events.record(about, NewEvent("Normal", "Ready", "it is ready"))
        await events.record(about, NewEvent("Warning", "Refused", "x" * 5_000))
        found = {event["reason"]: event for event in await events_of(server)}
        assert {reason: event["count"] for reason, event in found.items()} == {
            "CrashLoopBackOff": 3, "Ready": 1, "Refused": 1,
        }  # fmt: skip
        assert found["CrashLoopBackOff"]["firstTimestamp"] <= found["CrashLoopBackOff"]["lastTimestamp"]
        described = await server.kubectl("describe", "configmap", "greet")
        assert "Warning  CrashLoopBackOff" in described
        assert "(x3 over" in described
        assert (
            "kubeirq-functions  the function ended with exit code 3; the last lines of its log: no licence" in described
        )

        nowhere = {**about, "metadata": {**about["metadata"], "namespace": "nowhere"}}
        await events.record(nowhere, FAILED)
        assert "event not recorded" in caplog.text, "and that is all that comes of it"
