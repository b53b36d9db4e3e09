"""A definition that drops a part of a status, and an admission policy that changes a Deployment, say so once."""

import copy
import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from controllers.cluster.api import Api, Object
from controllers.cluster.lost_fields import LostFields
from controllers.cluster.put_backs import MOST
from controllers.functions.controller import FunctionController
from controllers.functions.pod_template import Settings

KEY = ("shop", "pay")


class Server:
    """The API server, with a definition that drops a field of the status, or a policy that sets an image."""

    def __init__(self, *, dropped: str = "", image: str = "") -> None:
        self.dropped, self.image = dropped, image
        self.version, self.status_writes, self.applies = 1, 0, 0
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
        self.applies += 1
        found = copy.deepcopy(wanted)
        entry = {"manager": "kubeirq", "operation": "Apply", "apiVersion": wanted["apiVersion"]}
        found["metadata"]["managedFields"] = [{**entry, "fieldsV1": fields_of(wanted)}]
        found["metadata"] |= {"uid": f"o-{self.version}", "resourceVersion": str(self.version)}
        if found["kind"] == "Deployment" and self.image:
            found["spec"]["template"]["spec"]["containers"][0]["image"] = self.image
        self.live[found["kind"]] = found
        return copy.deepcopy(found)

    def deployment(self, image: str) -> Object:
        """The Deployment after somebody set this image, who owns the field from now on."""
        self.version += 1
        found = copy.deepcopy(self.live["Deployment"])
        found["metadata"]["resourceVersion"] = str(self.version)
        (container,) = found["spec"]["template"]["spec"]["containers"]
        container["image"] = image
        (entry,) = found["metadata"]["managedFields"]
        containers = entry["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]
        del containers[f'k:{{"name":"{container["name"]}"}}']["f:image"]
        return found

    def reasons(self) -> Sequence[str]:
        return [found["reason"] for found in self.events]


def controller_of(server: Server) -> FunctionController:
    return FunctionController(cast("Api", server), Settings(runtime_image="r"))


async def test_what_a_webhook_changes_in_each_write_is_written_once_and_told() -> None:
    server = Server(image="mirror/r")
    controller = controller_of(server)
    await controller.resync()
    await controller.reconcile(KEY)
    applies = server.applies
    for _ in range(3):
        await controller.resync()
        await controller.reconcile(KEY)
    assert server.applies == applies
    (accepted,) = [found for found in server.function["status"]["conditions"] if found["type"] == "Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("True", "ChangedByWebhook")
    assert "Deployment pay: spec.template.spec.containers[" in accepted["message"]
    assert "].image: an admission webhook" in accepted["message"]
    assert (server.reasons().count("ChangedByWebhook"), server.reasons().count("Restored")) == (1, 0)
    server.function["spec"]["timeoutSeconds"] = 7
    server.function["metadata"] |= {"generation": 2, "resourceVersion": "1000"}
    await controller.resync()
    await controller.reconcile(KEY)
    assert server.applies == applies + 1, "an edit is written"


async def test_a_change_by_hand_is_set_back_and_told() -> None:
    server = Server()
    controller = controller_of(server)
    await controller.resync()
    await controller.reconcile(KEY)
    controller._on_deployment({"type": "MODIFIED", "object": server.deployment("other")})
    for _ in range(3):
        await controller.reconcile(KEY)
    assert server.reasons().count("Restored") == 1


async def test_a_field_that_somebody_changes_again_and_again_is_set_back_a_few_times_and_told() -> None:
    server = Server()
    controller = controller_of(server)
    await controller.resync()
    await controller.reconcile(KEY)
    applies = server.applies
    for _ in range(20):
        controller._on_deployment({"type": "MODIFIED", "object": server.deployment("other")})
        await controller.reconcile(KEY)
    assert server.applies == applies + MOST
    (ready,) = [found for found in server.function["status"]["conditions"] if found["type"] == "Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "Contested")
    assert "].image: set back 5 times within an hour" in ready["message"]
    assert server.reasons().count("Contested") == 1


def fields_of(wanted: Any) -> Any:
    """The owned fields of an object that is applied, as the API server notes them."""
    if isinstance(wanted, dict):
        return {f"f:{name}": fields_of(value) for name, value in wanted.items()}
    if isinstance(wanted, list) and wanted and all(isinstance(item, dict) and "name" in item for item in wanted):
        return {f'k:{{"name":"{item["name"]}"}}': fields_of(item) for item in wanted}
    return {}


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
