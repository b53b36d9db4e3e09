"""The cache of triggers follows the rule of `InformerCache`, whichever of watch and list comes first."""

from typing import Any, cast

import pytest

from controllers.cluster.api import Api
from controllers.triggers.ownership import Key
from controllers.triggers.trigger_cache import TriggerCache
from controllers.triggers.trigger_leases import SingleReplica

KEY: Key = ("CronTrigger", "a", "t")


def trigger(version: int, *, generation: int = 1, uid: str = "u") -> dict[str, Any]:
    return {
        "apiVersion": "kubeirq.dev/v1",
        "kind": "CronTrigger",
        "metadata": {
            "name": "t", "namespace": "a", "uid": uid, "generation": generation, "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{"manager": "me"}],
        },
        "spec": {"schedule": "* * * * *", "function": "f"},
    }  # fmt: skip


class Cache(TriggerCache):
    def __init__(self) -> None:
        self.forgotten: list[Key] = []
        super().__init__(cast(Api, None), SingleReplica, lambda _: None, self.forgotten.append)

    def see(self, kind: str, found: dict[str, Any]) -> bool:
        return self.observe({"type": kind, "object": found})

    @property
    def generation(self) -> int | None:
        cached = self.get(KEY)
        return None if cached is None else cached.object["metadata"]["generation"]


def test_an_event_is_news_once_and_its_field_managers_are_not_kept() -> None:
    cache = Cache()
    assert cache.see("ADDED", trigger(1))
    assert not cache.see("MODIFIED", trigger(1)), "a watch that starts again brings everything once more"
    assert not cache.see("MODIFIED", trigger(2)), "the status changed"
    assert cache.see("MODIFIED", trigger(3, generation=2))
    assert not cache.see("MODIFIED", trigger(2)), "a list was faster"
    assert cache.generation == 2
    cached = cache.get(KEY)
    assert cached is not None
    assert "managedFields" not in cached.object["metadata"]


def test_a_list_that_began_before_an_event_changes_nothing_about_it() -> None:
    cache = Cache()
    cache.see("ADDED", trigger(1))
    cache.begin_list()
    cache.see("MODIFIED", trigger(2, generation=2))
    cache.replace([trigger(1)])
    assert cache.generation == 2
    cache.begin_list()
    cache.see("DELETED", trigger(3, generation=2))
    cache.replace([trigger(2, generation=2)])
    assert cache.generation is None


def test_a_trigger_that_a_list_lacks_is_gone_and_a_late_event_does_not_bring_it_back() -> None:
    cache = Cache()
    cache.see("ADDED", trigger(2))
    cache.begin_list()
    cache.replace([])
    assert cache.forgotten == [KEY]
    assert not cache.see("MODIFIED", trigger(1))
    assert cache.by_uid("u") is None
    assert cache.generation is None


def test_a_successor_of_the_same_name_is_another_trigger() -> None:
    cache = Cache()
    cache.see("ADDED", trigger(1))
    assert cache.see("ADDED", trigger(5, uid="v"))
    assert cache.forgotten == [KEY]
    assert not cache.see("DELETED", trigger(4)), "the late end of the first one"
    assert (cache.by_uid("u"), cache.by_uid("v")) == (None, cache.get(KEY))


AUTH = {"bearer": {"tokens": [{"name": "s", "key": "k"}]}}
OTHER_AUTH = {"bearer": {"tokens": [{"name": "s", "key": "other"}]}}
CLOSED = {
    "auth": AUTH,
    "filter": "true",
    "host": "a.example",
    "methods": ["GET"],
    "cors": {"origins": ["https://a.example"]},
}


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ({}, {"auth": AUTH}, "auth"),
        (CLOSED, {**CLOSED, "auth": OTHER_AUTH}, "auth"),
        (CLOSED, {**CLOSED, "cors": {"origins": ["https://b.example"]}}, "cors"),
        (CLOSED, {**CLOSED, "filter": "false"}, "filter"),
        (CLOSED, {**CLOSED, "host": "b.example"}, "host"),
        (CLOSED, {**CLOSED, "methods": ["POST"]}, "methods"),
        (CLOSED, {**CLOSED, "path": "/y"}, "path"),
        ({}, {"expose": {"ingress": {}}}, "expose"),
        ({}, {"function": "other"}, "function"),
        ({}, {"reply": {"url": "http://a.example"}}, "reply"),
        ({"suspend": True}, {"suspend": False}, "suspend"),
    ],
)
@pytest.mark.parametrize(
    ("newer", "reason", "problem"),
    [
        ({"answer": "stream"}, "UnknownValue", "spec.answer: 'stream' is not one of"),
        ({"allowedIPs": ["10.0.0.0/8"]}, "UnknownField", "spec.allowedIPs: this version"),
    ],
)
def test_an_edit_of_who_is_served_or_called_stops_the_former_spec_if_something_is_not_known(
    before: dict[str, Any], after: dict[str, Any], field: str, newer: dict[str, Any], reason: str, problem: str
) -> None:
    def web(generation: int, spec: dict[str, Any]) -> dict[str, Any]:
        found = trigger(generation, generation=generation)
        return {**found, "kind": "HTTPTrigger", "spec": {"function": "f", "path": "/x", **spec}}

    cache, key = Cache(), ("HTTPTrigger", "a", "t")
    cache.see("ADDED", web(1, before))
    cached = cache.get(key)
    assert cached is not None
    assert cached.spec is not None, cached.rejection
    if not before.get("suspend"):
        cache.see("MODIFIED", web(2, {**before, **newer, "concurrency": 3}))
        assert cached.spec is not None
        assert cached.held_back is not None, "no edit of callers"
        assert cached.held_back[0] == reason
    cache.see("MODIFIED", web(3, {**after, **newer}))
    assert cached.spec is None
    assert cached.held_back is None
    assert cached.rejection is not None
    assert cached.rejection[0] == reason
    assert problem in cached.rejection[1]
    assert f"spec.{field} changes too, so the former spec stops" in cached.rejection[1]
    cache.see("MODIFIED", web(4, {**before, **newer}))
    assert cached.spec is None, "a spec that has stopped does not start again"
    cache.see("MODIFIED", web(5, after))
    assert cached.spec is not None
    assert cached.rejection is None


def test_a_running_trigger_takes_a_new_spec_once_the_unknown_field_is_ignorable() -> None:
    def newer(generation: int, **annotations: str) -> dict[str, Any]:
        found = trigger(generation, generation=2)
        metadata = {
            **found["metadata"],
            "annotations": {"kubeirq.dev/ignorable-fields": "spec.colour"} if annotations else {},
        }
        return {**found, "metadata": metadata, "spec": {**found["spec"], "concurrency": 3, "colour": "red"}}

    by_definition, by_author = Cache(), Cache()
    for cache in (by_definition, by_author):
        cache.see("ADDED", trigger(1))
        cache.see("MODIFIED", newer(2))
        assert concurrency(cache) == 16
    by_definition.may_ignore({"CronTrigger": frozenset({"spec.colour"})})
    assert concurrency(by_definition) == 3
    assert by_author.see("MODIFIED", newer(3, listed="yes")), "an annotation changes no generation"
    assert concurrency(by_author) == 3
    by_definition.may_ignore({})
    assert concurrency(by_definition) == 3, "the last good spec goes on"


def concurrency(cache: Cache) -> int | None:
    cached = cache.get(KEY)
    return None if cached is None or cached.spec is None else cached.spec.concurrency


def test_a_written_status_is_kept_until_the_watch_brings_it() -> None:
    cache = Cache()
    cache.see("ADDED", trigger(1))
    cached = cache.get(KEY)
    assert cached is not None
    cached.written = {"observedGeneration": 1}
    cache.see("MODIFIED", trigger(2))
    assert cached.written == {"observedGeneration": 1}, "another writer's version came first"
    cache.see("MODIFIED", {**trigger(3), "status": {"observedGeneration": 1, "state": {"f/place": "1"}}})
    assert cached.written is None
