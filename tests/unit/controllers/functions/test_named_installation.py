"""The status of a Function names the installation that runs it, and a Function at rest causes no writes."""

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

from controllers.cluster.api import Api, Object
from controllers.functions.controller import FunctionController
from controllers.functions.pod_template import Settings

KEY = ("shop", "pay")


class Server:
    """The API server with one Function, whose status keeps what an apply does not own."""

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.version = 1
        self.live: dict[str, Object] = {}
        metadata = {"namespace": "shop", "name": "pay", "uid": "u-1", "generation": 1, "resourceVersion": "1"}
        spec = {"source": {"inline": "pass"}}
        self.function: Object = {
            "apiVersion": "kubeirq.dev/v1", "kind": "Function", "metadata": metadata, "spec": spec, "status": {},
        }  # fmt: skip

    async def get(self, _: str, kind: str, *names: str) -> Object | None:
        return copy.deepcopy(self.function) if kind == "Function" else None

    async def list(self, *_: Any) -> Sequence[Object]:
        return []

    async def create(self, wanted: Object) -> Object:
        return wanted

    async def objects(self, _: str, kind: str, *__: Any, **___: Any) -> AsyncIterator[Object]:
        found = [self.function] if kind == "Function" else [each for each in self.live.values() if each["kind"] == kind]
        for each in copy.deepcopy(found):
            yield each

    async def request(self, method: str, path: str, *, body: Mapping[str, Any] | None = None, **_: Any) -> Object:
        if method == "GET":
            return {"items": []}  # of the definitions
        assert (method, path) == ("PATCH", "/apis/kubeirq.dev/v1/namespaces/shop/functions/pay/status")
        assert body is not None
        return self._write("installation", body["status"])

    async def apply(self, wanted: Object, *, subresource: str = "", **_: Any) -> Object:
        if subresource:
            return self._write("status", wanted["status"])
        found = copy.deepcopy(wanted)
        self.version += 1
        found["metadata"] |= {"uid": f"o-{self.version}", "resourceVersion": str(self.version)}
        self.live[found["kind"]] = found
        return copy.deepcopy(found)

    def _write(self, what: str, fields: Mapping[str, Any]) -> Object:
        self.writes.append(what)
        self.version += 1
        self.function["status"] = {**self.function["status"], **fields}
        self.function["metadata"] = {**self.function["metadata"], "resourceVersion": str(self.version)}
        return copy.deepcopy(self.function)


async def test_the_name_is_written_once_and_the_status_is_written_when_it_changes() -> None:
    server = Server()
    controller = FunctionController(cast("Api", server), Settings(runtime_image="r", release="apps/one"))
    for _ in range(5):
        await controller.resync()
        await controller.reconcile(KEY)
    assert server.function["status"]["installation"] == {"name": "apps/one"}
    assert server.writes == ["installation", "status"]
