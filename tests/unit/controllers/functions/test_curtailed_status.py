"""A definition that drops a part of a status, and an admission policy that changes a Deployment, say so once."""

import copy
import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from controllers.cluster.api import Api, Object
from controllers.cluster.lost_fields import LostFields
from controllers.functions.controller import FunctionController
from controllers.functions.pod_template import Settings

KEY = ("shop", "pay")


class Server:
    """The API server, with a definition that drops a field of the status, or a policy that sets an image."""

    def __init__(self, *, dropped: str = "", image: str = "") -> None:
        self.dropped, self.image = dropped, image
        self.version, self.status_writes = 1, 0
        self.events: list[Object] = []
        self.live: dict[str, Object] = {}
        metadata = {"namespace": "shop", "name": "pay", "uid": "u-1", "generation": 1, "resourceVersion": "1"}
        spec = {"source": {"inline": "pass"}}
        self.function: Object = {
            "apiVersion": "kubeirq.dev/v1", "kind": "Function", "metadata": metadata, "spec": spec,
        }  # fmt: skip

    async def get(self, _: str, kind: str, namespace: str, name: str) -> Object | None:
        return copy.deepcopy(self.function) if kind == "Function" else None

    async def request(self, *_: Any, **__: Any) -> Object:
        return {"items": []}  # of the definitions

    async def list(self, *_: Any) -> list[Object]:
        return []

    async def objects(self, _: str, kind: str, *__: Any, **___: Any) -> Any:
        found = [self.function] if kind == "Function" else [each for each in self.live.values() if each["kind"] == kind]
        for each in copy.deepcopy(found):
            yield each

    async def create(self, wanted: Object) -> Object:
        self.events.append(wanted)
        return wanted

    async def apply(self, wanted: Object, *, subresource: str = "", **_: Any) -> Object:
        self.version += 1
        if subresource:
            self.status_writes += 1
            status = {name: value for name, value in wanted["status"].items() if name != self.dropped}
            self.function = {**self.function, "status": status}
            self.function["metadata"] = {**self.function["metadata"], "resourceVersion": str(self.version)}
            return copy.deepcopy(self.function)
        found = copy.deepcopy(wanted)
        found["metadata"] |= {"uid": f"o-{self.version}", "resourceVersion": str(self.version)}
        if found["kind"] == "Deployment" and self.image:
            found["spec"]["template"]["spec"]["containers"][0]["image"] = self.image
        self.live[found["kind"]] = found
        return copy.deepcopy(found)

    def deployment(self, image: str) -> Object:
        """The Deployment after somebody set this image."""
        self.version += 1
        found = copy.deepcopy(self.live["Deployment"])
        found["metadata"]["resourceVersion"] = str(self.version)
        found["spec"]["template"]["spec"]["containers"][0]["image"] = image
        return found

    def reasons(self) -> Sequence[str]:
        return [found["reason"] for found in self.events]


def controller_of(server: Server) -> FunctionController:
    return FunctionController(cast("Api", server), Settings(runtime_image="r"))


async def test_a_policy_that_changes_each_write_is_nobody_who_changes_the_deployment() -> None:
    server = Server(image="mirror/r")
    controller = controller_of(server)
    await controller.resync()
    for _ in range(5):
        await controller.reconcile(KEY)
    assert "Restored" not in server.reasons()


async def test_a_change_by_hand_is_set_back_and_told() -> None:
    server = Server()
    controller = controller_of(server)
    await controller.resync()
    await controller.reconcile(KEY)
    controller._on_deployment({"type": "MODIFIED", "object": server.deployment("other")})
    for _ in range(3):
        await controller.reconcile(KEY)
    assert server.reasons().count("Restored") == 1


async def test_a_curtailed_status_is_whole_after_the_definition_is_upgraded() -> None:
    server = Server(dropped="observedGeneration")
    controller = controller_of(server)
    await controller.resync()
    for _ in range(3):
        await controller.reconcile(KEY)
    assert server.status_writes == 1
    assert "observedGeneration" not in server.function["status"]
    server.dropped = ""
    await controller.resync()
    for _ in range(3):
        await controller.reconcile(KEY)
    assert server.status_writes == 2
    assert server.function["status"]["observedGeneration"] == 1


def test_lost_fields_are_told_again_after_a_definition_that_has_them(caplog: pytest.LogCaptureFixture) -> None:
    lost, whole, other = LostFields(), {"a": 1, "b": 2}, {"a": 1}
    with caplog.at_level(logging.WARNING):
        assert lost.look("Function", whole, {"a": 1})
        assert not lost.look("Function", other, {"a": 1}), "a status without the field tells nothing"
        assert lost.look("Function", whole, {"a": 1})
        assert len(caplog.records) == 1
        assert not lost.look("Function", whole, whole)
        assert lost.look("Function", whole, {"a": 1})
        assert len(caplog.records) == 2
