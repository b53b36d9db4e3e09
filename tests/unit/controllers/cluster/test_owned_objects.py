"""The cache of owned objects: the answer to a write does not replace a newer watch event."""

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from controllers.cluster.api import Api, Object, Refused
from controllers.cluster.owned_objects import NameTaken, OwnedObjects
from controllers.cluster.put_backs import MOST, WITHIN_SECONDS, PutBacks

OWNER: Object = {"kind": "Function", "metadata": {"namespace": "shop", "name": "pay", "uid": "u-1"}}


def deployment(version: str, **status: Any) -> Object:
    metadata = {
        "namespace": "shop", "name": "pay", "uid": "d-1", "resourceVersion": version, "labels": {"function": "pay"},
        "ownerReferences": [{"uid": "u-1"}],
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"replicas": 1},
        "status": status,
    }


class Server:
    """The far side: the watch brings news of the object before the answer to its write is here."""

    def __init__(self, news: Object | None, event: str) -> None:
        self.news, self.event = news, event
        self.owned: OwnedObjects

    async def get(self, *names: str) -> Object | None:
        return None

    async def apply(self, wanted: Object) -> Object:
        if self.news is not None:
            self.owned.observe({"type": "ADDED", "object": deployment("5")})
            self.owned.observe({"type": self.event, "object": self.news})
        return deployment("5")


async def after_a_write(news: Object | None, event: str = "MODIFIED") -> Object | None:
    server = Server(news, event)
    server.owned = OwnedObjects(cast("Api", server), [("apps/v1", "Deployment")], label="function")
    await server.owned.ensure(OWNER, [deployment("")])
    return server.owned.get(("shop", "pay"), "Deployment", "pay")


async def test_the_answer_to_a_write_does_not_replace_a_newer_watch_event() -> None:
    newer = deployment("6", observedGeneration=1)
    assert await after_a_write(newer) == newer


async def test_without_news_the_answer_counts() -> None:
    assert await after_a_write(None) == deployment("5")


async def test_the_answer_to_a_write_does_not_bring_a_deleted_object_back() -> None:
    assert await after_a_write(deployment("6"), "DELETED") is None


async def test_an_object_belongs_to_the_owner_that_its_label_names_now() -> None:
    owned = OwnedObjects(cast("Api", Server(None, "")), [("apps/v1", "Deployment")], label="function")
    owned.observe({"type": "ADDED", "object": deployment("5")})
    moved = deployment("6")
    moved["metadata"]["labels"]["function"] = "other"
    owned.observe({"type": "MODIFIED", "object": moved})
    assert owned.get(("shop", "pay"), "Deployment", "pay") is None
    assert owned.get(("shop", "other"), "Deployment", "pay") == moved
    owned.forget(("shop", "other"))
    assert owned.get(("shop", "other"), "Deployment", "pay") is None


def config_map(**more: Any) -> Object:
    metadata = {
        "namespace": "shop", "name": "pay-1", "uid": "c-1", "resourceVersion": "5", "labels": {"function": "pay"},
        "ownerReferences": [{"uid": "u-1"}],
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, **more}, "immutable": True}


def test_nothing_but_the_metadata_of_an_immutable_kind_is_kept_and_compared() -> None:
    kinds = [("v1", "ConfigMap")]
    owned = OwnedObjects(cast("Api", Server(None, "")), kinds, label="function", immutable=["ConfigMap"])
    fields = {"f:data": {"f:a.py": {}}, "f:immutable": {}, "f:metadata": {"f:labels": {"f:function": {}}}}
    applied = {"manager": "kubeirq", "operation": "Apply", "apiVersion": "v1", "fieldsV1": fields}
    live = config_map(managedFields=[applied, {"manager": "kubectl", "operation": "Update"}])
    owned.observe({"type": "ADDED", "object": {**live, "data": {"a.py": "x" * 1_000}}})

    kept = owned.get(("shop", "pay"), "ConfigMap", "pay-1")
    assert kept is not None
    assert kept.keys() == {"apiVersion", "kind", "metadata"}
    (entry,) = kept["metadata"]["managedFields"]
    assert json.loads(entry["fieldsV1"]).keys() == {"f:metadata"}
    assert owned.is_current(("shop", "pay"), {**config_map(), "data": {"a.py": "x"}})
    assert not owned.is_current(("shop", "pay"), config_map(labels={"function": "pay", "team": "a"}))
    assert not owned.is_current(("shop", "pay"), config_map(name="pay-2"))


def test_applied_fields_are_kept_as_text_and_one_that_is_not_desired_any_more_is_found() -> None:
    owned = OwnedObjects(cast("Api", Server(None, "")), [("apps/v1", "Deployment")], label="function")
    fields = {"f:spec": {"f:replicas": {}, "f:paused": {}}}
    applied = {"manager": "kubeirq", "operation": "Apply", "apiVersion": "apps/v1", "fieldsV1": fields}
    live = deployment("5")
    live["metadata"]["managedFields"] = [applied]
    live["spec"]["paused"] = True
    for _ in range(2):  # the second time as the cache has it
        owned.observe({"type": "MODIFIED", "object": live})
        kept = owned.get(("shop", "pay"), "Deployment", "pay")
        assert kept is not None
        live = kept
    assert isinstance(live["metadata"]["managedFields"][0]["fieldsV1"], str)
    wanted = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "pay"}, "spec": {"replicas": 1}}
    assert not owned.is_current(("shop", "pay"), wanted)
    assert owned.is_current(("shop", "pay"), {**wanted, "spec": {"replicas": 1, "paused": True}})


class Keeper:
    """The far side: it has an object already."""

    def __init__(self, kept: Object) -> None:
        self.kept = kept

    async def get(self, *names: str) -> Object | None:
        return self.kept

    async def apply(self, wanted: Object) -> Object:
        return deployment("9")


def orphan(*owners: Object, **labels: str) -> Object:
    found = deployment("5")
    found["metadata"]["labels"] = {"function": "pay", "app.kubernetes.io/managed-by": "kubeirq", **labels}
    found["metadata"]["ownerReferences"] = list(owners)
    return found


@pytest.mark.parametrize(
    "kept",
    [
        orphan(),
        orphan({"kind": "Function", "name": "pay", "uid": "before", "controller": True}),
        orphan({"kind": "Team", "name": "a", "uid": "t"}),
    ],
)
async def test_an_orphan_of_the_owner_is_adopted(kept: Object) -> None:
    owned = OwnedObjects(cast("Api", Keeper(kept)), [("apps/v1", "Deployment")], label="function")
    wanted = deployment("")
    wanted["spec"] = {"replicas": 2}
    await owned.ensure(OWNER, [wanted])
    assert owned.get(("shop", "pay"), "Deployment", "pay") == deployment("9")


@pytest.mark.parametrize(
    "kept",
    [
        orphan(function="other"),
        orphan(**{"app.kubernetes.io/managed-by": "Helm"}),
        orphan({"kind": "Rollout", "name": "pay", "uid": "r", "controller": True}),
    ],
)
async def test_an_object_of_someone_else_is_not_adopted(kept: Object) -> None:
    owned = OwnedObjects(cast("Api", Keeper(kept)), [("apps/v1", "Deployment")], label="function")
    with pytest.raises(NameTaken, match="is not this function's"):
        await owned.ensure(OWNER, [deployment("")])


class Stubborn:
    """The far side refuses to list one kind, and to delete one object."""

    def __init__(self) -> None:
        self.refused_kind = ""
        self.deleted: list[str] = []

    async def objects(self, api_version: str, kind: str, *_: Any, **options: Any) -> AsyncIterator[Object]:
        if kind == self.refused_kind:
            raise Refused(403, f"cannot list {kind}")
        yield {**deployment("5"), "apiVersion": api_version, "kind": kind}

    async def get(self, api_version: str, kind: str, *names: str) -> Object:
        return {**deployment("5"), "apiVersion": api_version, "kind": kind}

    async def delete(self, found: Object) -> None:
        if found["kind"] == self.refused_kind:
            raise Refused(403, f"cannot delete {found['kind']}")
        self.deleted.append(found["kind"])


KINDS = (("apps/v1", "Deployment"), ("v1", "Service"), ("policy/v1", "PodDisruptionBudget"))


async def test_a_kind_that_may_not_be_listed_keeps_its_objects_and_the_others_are_listed() -> None:
    server = Stubborn()
    owned = OwnedObjects(cast("Api", server), KINDS, label="function")
    server.refused_kind = "Service"
    assert not await owned.refresh()
    assert {found["kind"] for found in owned.unwanted(OWNER, [])} == {"Deployment", "PodDisruptionBudget"}
    server.refused_kind = ""
    assert await owned.refresh()
    server.refused_kind = "Service"
    assert not await owned.refresh()
    assert {found["kind"] for found in owned.unwanted(OWNER, [])} == {kind for _, kind in KINDS}


async def test_an_object_that_may_not_be_deleted_does_not_keep_the_others() -> None:
    server = Stubborn()
    owned = OwnedObjects(cast("Api", server), KINDS, label="function")
    await owned.refresh()
    server.refused_kind = "Service"
    with pytest.raises(Refused, match="cannot delete Service"):
        await owned.remove(sorted(owned.unwanted(OWNER, []), key=lambda found: str(found["kind"] != "Service")))
    assert sorted(server.deleted) == ["Deployment", "PodDisruptionBudget"]
    assert [found["kind"] for found in owned.unwanted(OWNER, [])] == ["Service"]


def test_what_others_add_changes_nothing_and_the_mark_alone_causes_no_write() -> None:
    owned = OwnedObjects(cast("Api", Server(None, "")), [("apps/v1", "Deployment")], label="function")
    live = deployment("5")
    live["metadata"]["annotations"] = {"sidecar": "injected"}
    live["spec"] |= {"paused": False, "template": {"spec": {"containers": [{"name": "sidecar"}]}}}
    owned.observe({"type": "ADDED", "object": live})
    assert owned.is_current(("shop", "pay"), deployment("5"))
    assert owned.overridden(("shop", "pay"), deployment("5")) == []


def test_a_fight_for_a_field_ends_until_the_desired_state_changes_or_an_hour_has_passed() -> None:
    put_backs: PutBacks[str] = PutBacks()
    assert put_backs.may_write("a", "1", 0)
    assert [put_backs.may_write("a", "1", now) for now in range(1, 9)] == [True] * MOST + [False] * 3
    assert not put_backs.may_write("a", "1", WITHIN_SECONDS)
    assert put_backs.may_write("a", "1", WITHIN_SECONDS + 2)
    assert put_backs.may_write("a", "2", WITHIN_SECONDS + 2)
    assert [put_backs.may_write("b", "1", now, is_written=True) for now in range(6)] == [True] * MOST + [False]
