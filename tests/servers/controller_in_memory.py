"""A trigger controller in the test's process, on an API server in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from controllers.cluster.api import Api
from controllers.triggers.controller import TriggerController
from controllers.triggers.gates import Gates
from controllers.triggers.secret_watches import SecretWatches
from controllers.triggers.secrets import Secrets
from controllers.triggers.store import ClusterStore
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http.gateway import Gateway
from trigger_sources.stores.none import NoStore

Object = dict[str, Any]


def trigger(name: str, kind: str = "CronTrigger", generation: int = 1, **spec: Any) -> Object:
    return {
        "apiVersion": "kubeirq.dev/v1",
        "kind": kind,
        "metadata": {
            "name": name, "namespace": "a", "uid": name, "generation": generation, "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"schedule": "* * * * * *", "delivery": {"onFailure": "drop"}, **spec}
        if kind == "CronTrigger"
        else spec,
    }  # fmt: skip


class Cluster:
    """An API server in memory: as much of one as triggers need."""

    def __init__(self, *objects: Object) -> None:
        self.kept = objects
        self.writes = 0

    async def objects(self, api_version: str, kind: str, *_: Any, **options: Any) -> AsyncIterator[Object]:
        for found in self.kept:
            if found["kind"] == kind:
                yield found

    async def list(self, api_version: str, kind: str, *_: Any, **options: Any) -> list[Object]:
        return [found for found in self.kept if found["kind"] == kind]

    async def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        return next(found for found in self.kept if (found["kind"], found["metadata"]["name"]) == (kind, name))

    async def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> Object:
        if path.endswith("/customresourcedefinitions"):
            return {"items": []}
        name = path.removesuffix("/status").rpartition("/")[2]
        found = next(found for found in self.kept if found["metadata"]["name"] == name)
        if method == "PATCH":
            self.writes += 1
            status = found.setdefault("status", {})
            for field, value in body["status"].items():
                status[field] = {**status.get(field, {}), **value} if isinstance(value, dict) else value
        return found

    async def create(self, wanted: Object) -> Object:
        return wanted


class OneLease:
    has = True

    def holds(self, uid: str) -> bool:
        return self.has

    def term_of(self, uid: str) -> int | None:
        return 1 if self.has else None


@asynccontextmanager
async def running(
    *objects: Object, lease: OneLease | None = None, **options: Any
) -> AsyncIterator[tuple[TriggerController, Any]]:
    store = ClusterStore(lambda uid: controller.status_of(uid), NoStore())
    secrets = Secrets()
    host = LocalHost(replica="one", store=store, gateway=Gateway(), secrets=secrets.text, defaults={})
    cluster = cast(Api, Cluster(*objects))
    kind, watches = objects[0]["kind"], SecretWatches(cluster, secrets)
    controller = TriggerController(
        cluster, [kind], host, Gates(), secrets, watches, leases=lease, grace_seconds=10, **options
    )
    task = asyncio.create_task(controller.run())
    try:
        yield controller, task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
