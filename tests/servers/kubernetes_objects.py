"""All that an API server keeps, by the names that kubectl knows: to read it often, and to remove what a test left."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from servers.kubernetes import APIServer

from controllers.cluster.api import Api, Refused

USER_AGENT = "kubectl-in-python"  # tests tell what they ask themselves from what controllers ask by this
# The server and the controller manager make these by themselves, and remove them with the objects that they belong to
OWN_KINDS = frozenset(("endpoints", "endpointslices", "ipaddresses", "apiservices", "componentstatuses"))
OWN_NAMES = frozenset(("kube-root-ca.crt", "serviceaccounts/default"))
OWN_NAMESPACES = frozenset(("kube-system", "kube-public", "kube-node-lease"))
NAMESPACE = re.compile("/api/v1/namespaces/[^/]+")
GONE_SECONDS = 60


@dataclass(frozen=True)
class Kind:
    root: str  # /api/v1, or /apis/GROUP/VERSION
    plural: str
    namespaced: bool
    names: frozenset[str]
    verbs: frozenset[str]

    def path(self, namespace: str = "", name: str = "") -> str:
        inside = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{self.root}{inside}/{self.plural}" + (f"/{name}" if name else "")


@asynccontextmanager
async def connected(server: APIServer) -> AsyncIterator[Api]:
    """As the administrator."""
    configuration = Configuration()
    await config.load_kube_config(config_file=str(server.kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        client.user_agent = USER_AGENT
        yield Api(client)


async def kinds_of(api: Api) -> list[Kind]:
    """Those that the server knows now, each in the version that it prefers."""
    groups = (await api.request("GET", "/apis"))["groups"]
    roots = ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]
    answers = await asyncio.gather(*(api.request("GET", root) for root in roots))
    return [
        _kind(root, found)
        for root, answer in zip(roots, answers, strict=True)
        for found in answer["resources"]
        if "/" not in found["name"]  # a part of one, such as its status
    ]


def named(kinds: Iterable[Kind], name: str) -> Kind:
    return next(kind for kind in kinds if name.lower() in kind.names)


async def paths_of_all(api: Api, kinds: Iterable[Kind]) -> dict[str, str]:
    """The uid of every object, by its path; without those in namespaces that are going."""
    wanted = [kind for kind in kinds if {"list", "delete"} <= kind.verbs and kind.plural not in OWN_KINDS]
    lists = await asyncio.gather(*(_listed(api, kind) for kind in wanted))
    namespaces = dict(zip((kind.plural for kind in wanted), lists, strict=True))["namespaces"]
    going = {found["metadata"]["name"] for found in namespaces if "deletionTimestamp" in found["metadata"]}
    paths = {}
    for kind, items in zip(wanted, lists, strict=True):
        for found in items:
            namespace, name = found["metadata"].get("namespace", ""), found["metadata"]["name"]
            place = name if kind.plural == "namespaces" else namespace
            is_own = {name, f"{kind.plural}/{name}"} & OWN_NAMES or place in OWN_NAMESPACES
            if not is_own and place not in going:
                paths[kind.path(namespace, name)] = found["metadata"]["uid"]
    return paths


async def remove_all_but(api: Api, kinds: Iterable[Kind], kept: dict[str, str]) -> None:
    """Returns once the server has nothing else; namespaces go in the background, emptied."""
    kinds = list(kinds)
    left: dict[str, str] = {}
    try:
        async with asyncio.timeout(GONE_SECONDS):
            while left := {
                path: uid for path, uid in (await paths_of_all(api, kinds)).items() if kept.get(path) != uid
            }:
                # A namespace goes in the background, so what is in it is removed first
                paths = [path for path in left if not NAMESPACE.fullmatch(path)] or list(left)
                await asyncio.gather(*(_delete(api, path) for path in paths))
    except TimeoutError:
        raise AssertionError(f"left: {sorted(left)}") from None


def _kind(root: str, found: dict[str, Any]) -> Kind:
    names = {found["name"], found.get("singularName"), found["kind"].lower(), *found.get("shortNames", [])}
    return Kind(root, found["name"], found["namespaced"], frozenset(names), frozenset(found["verbs"]))


async def _listed(api: Api, kind: Kind) -> list[dict[str, Any]]:
    while True:
        try:
            items: list[dict[str, Any]] = (await api.request("GET", kind.path()))["items"]
        except Refused as refused:
            if refused.status == 404:  # its definition is gone
                return []
            if refused.status != 429:
                raise
            await asyncio.sleep(0.1)  # its definition is new: "storage is (re)initializing"
        else:
            return items


async def _delete(api: Api, path: str) -> None:
    try:
        await api.request("DELETE", path, body={"propagationPolicy": "Background"})
    except Refused as refused:
        if refused.status not in (404, 409):
            raise
