"""The watches of the controllers: the API server filters them, and sends no more of an object than is needed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from servers.controllers import Cluster, cluster, condition, resource
from servers.kubernetes import APIServer

from controllers.cluster.operator import Event, Watch, operate

FUNCTION = resource("Function", "greet", {"source": {"inline": "def handler(event, context): ..."}})
LABELLED = "kubeirq.dev/function"


def config_map(name: str, labels: dict[str, str] | None = None, text: str = "x") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": text}}


class Seen:
    """The events of a watch: type and object of each."""

    def __init__(self) -> None:
        self.events: list[tuple[str | None, Any]] = []

    def handler(self, event: Event) -> None:
        self.events.append((event["type"], event["object"]))

    def names(self) -> list[tuple[str | None, str]]:
        return [(kind, found["metadata"]["name"]) for kind, found in self.events]

    async def until(self, holds: Callable[[list[tuple[str | None, str]]], bool]) -> None:
        try:
            async with asyncio.timeout(20):
                while not holds(self.names()):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(self.names()) from None


@asynccontextmanager
async def watching(it: Cluster, monkeypatch: pytest.MonkeyPatch, *watches: Watch) -> AsyncIterator[None]:
    monkeypatch.setenv("KUBECONFIG", str(it.server.kubeconfig))
    stop = asyncio.Event()
    running = asyncio.ensure_future(operate(watches, asyncio.Event().wait, namespace="default", stop=stop))
    try:
        yield
    finally:
        stop.set()
        await running


@pytest.mark.timeout(120)
async def test_objects_without_the_label_are_not_sent_and_one_that_loses_it_counts_as_deleted(
    kubernetes: APIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        seen = Seen()
        await it.apply(config_map("foreign"), config_map("ours", {LABELLED: "a"}))
        async with watching(it, monkeypatch, Watch("", "v1", "configmaps", seen.handler, LABELLED)):
            await seen.until(lambda names: names == [(None, "ours")])
            await it.apply(config_map("foreign", text="y"), config_map("later", {LABELLED: "a"}))
            await seen.until(lambda names: names[1:] == [("ADDED", "later")])
            await it.server.kubectl("label", "configmap", "ours", f"{LABELLED}-")
            await seen.until(lambda names: names[2:] == [("DELETED", "ours")])
            assert seen.events[-1][1]["metadata"]["labels"] == {LABELLED: "a"}, "the owner can still be read from it"


@pytest.mark.timeout(120)
async def test_a_watch_of_metadata_gets_no_content_and_reads_pages_of_its_size(
    kubernetes: APIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        lean, full = Seen(), Seen()
        await it.apply(*(config_map(f"c{number}") for number in range(5)), FUNCTION)
        functions = Watch(
            "kubeirq.dev", "v1", "functions", full.handler, page_size=2, compact=lambda f: f["spec"]["source"]
        )
        maps = Watch("", "v1", "configmaps", lean.handler, metadata_only=True, page_size=2)
        async with watching(it, monkeypatch, maps, functions):
            await lean.until(lambda names: len(names) == 6)  # kube-root-ca.crt is the sixth
            await it.apply(config_map("c0", text="y"))
            await lean.until(lambda names: names[-1] == ("MODIFIED", "c0"))
            async with asyncio.timeout(20):
                while not full.events:
                    await asyncio.sleep(0.02)
        assert all("data" not in found for _, found in lean.events)
        assert {found["metadata"]["uid"] for _, found in lean.events if found["metadata"]["name"] == "c0"}
        assert full.events == [(None, FUNCTION["spec"]["source"])]
        lists = [
            e for e in it.server.audit(resource="configmaps") if e["verb"] == "list" and "limit=2" in e["requestURI"]
        ]
        assert len(lists) == 3


@pytest.mark.timeout(120)
async def test_a_watch_of_metadata_begins_without_any_object(
    kubernetes: APIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        seen = Seen()
        watch = Watch("kubeirq.dev", "v1", "functions", seen.handler, metadata_only=True)
        async with watching(it, monkeypatch, watch):
            async with asyncio.timeout(20):
                while not any(event["verb"] == "list" for event in it.server.audit(resource="functions")):
                    await asyncio.sleep(0.02)
            await it.apply(FUNCTION)
            await seen.until(lambda names: names == [("ADDED", "greet")])


@pytest.mark.timeout(120)
async def test_the_controllers_let_the_server_filter_and_give_their_name(kubernetes: APIServer, tmp_path: Path) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        login = str(await it.server.kubeconfig_of("controllers", "system:masters"))
        for arguments in (("functions",), ("trigger", "http")):
            await it.start(*arguments, KUBECONFIG=login)
        await it.apply(FUNCTION, resource("HTTPTrigger", "greet", {"function": "greet"}))
        for kind in ("function", "httptrigger"):
            await it.until(kind, "greet", lambda found: condition(found)["status"])

        requests = it.server.audit(user="controllers")
        labels = {"deployments": LABELLED, "endpointslices": LABELLED, "ingresses": "kubeirq.dev/trigger"}
        for plural, label in labels.items():
            asked = [parse_qs(urlsplit(e["requestURI"]).query) for e in requests if f"/{plural}?" in e["requestURI"]]
            assert asked
            assert all(query.get("labelSelector") == [label] for query in asked), asked
        names = {event["userAgent"] for event in requests}
        assert all(name.startswith("kubeirq/") for name in names), names
