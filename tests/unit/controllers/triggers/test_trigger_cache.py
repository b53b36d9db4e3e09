"""The cache of triggers follows the rule of `InformerCache`, whichever of watch and list comes first."""

from typing import Any, cast

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
