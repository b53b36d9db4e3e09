"""Of two installations that watch a namespace, one runs a trigger; the other one takes over when the first is gone."""

import asyncio
import copy
from typing import Any, cast

import pytest

from controllers.cluster import installations as module
from controllers.cluster.api import Api, Object, Refused
from controllers.cluster.conditions import Condition
from controllers.cluster.installations import (
    ANSWER_SECONDS,
    ASK_SECONDS,
    FORGET_SECONDS,
    REASON,
    Installations,
    installation_in_status,
)

LOOK_SECONDS = 2.0
ACCEPTED = [Condition("Accepted", "True", "Accepted"), Condition("Ready", "True", "Ready")]


class World:
    """One trigger at the API server, a clock, and the installations that run."""

    def __init__(self) -> None:
        self.time, self.patches = 0.0, 0
        metadata = {"uid": "u", "namespace": "shop", "name": "t", "resourceVersion": "0"}
        self.trigger: Object = {
            "apiVersion": "kubeirq.dev/v1",
            "kind": "CronTrigger",
            "metadata": metadata,
            "status": {},
        }

    def installation(self, name: str) -> Installations:
        return Installations(cast("Api", self), name, lambda: self.time)

    async def request(self, _: str, path: str, *, body: Any, content_type: str) -> Object:
        assert path == "/apis/kubeirq.dev/v1/namespaces/shop/crontriggers/t/status"
        assert body["metadata"]["uid"] == "u"
        if body["metadata"].get("resourceVersion", self.version) != self.version:
            raise Refused(409, "the object has been modified")
        self.write(body["status"])
        return self.trigger

    @property
    def version(self) -> str:
        return str(self.trigger["metadata"]["resourceVersion"])

    def write(self, status: Any) -> None:
        self.patches += 1
        self.trigger["metadata"]["resourceVersion"] = str(self.patches)
        merge(self.trigger["status"], status)

    async def runs(self, *running: Installations, seconds: float) -> None:
        """Each one looks at the trigger every two seconds: its owner writes the status, the others contend for it."""
        until = self.time + seconds
        while self.time < until:
            self.time += LOOK_SECONDS
            for one in running:
                seen = copy.deepcopy(self.trigger)
                if one.other(seen) is not None:
                    await one._contend_for(seen)
                elif not contains(seen["status"], fields := one.fields(seen)):
                    self.write(fields)

    def owners(self, *running: Installations) -> list[str]:
        return [one._own for one in running if one.other(self.trigger) is None]


def merge(into: Any, changes: Any) -> None:
    for name, value in changes.items():
        if value is None:
            into.pop(name, None)
        elif isinstance(value, dict):
            merge(into.setdefault(name, {}), value)
        else:
            into[name] = value


def contains(status: Any, fields: Any) -> bool:
    after = copy.deepcopy(status)
    merge(after, fields)
    return bool(after == status)


async def test_the_second_one_gives_way_and_the_first_one_says_so() -> None:
    world = World()
    first, second = world.installation("a/one"), world.installation("b/two")
    await world.runs(first, seconds=10)
    for _ in range(30):
        await world.runs(first, second, seconds=60)
        assert world.owners(first, second) == ["a/one"]
    assert world.patches < 100, "a question and an answer a minute"
    (accepted, ready) = first.shown(world.trigger, ACCEPTED)
    assert (accepted.status, accepted.reason) == ("True", REASON)
    assert "b/two watches this namespace, too" in accepted.message
    assert ready.status == "True"
    assert "a/one runs it" in second.rejection("a/one")[1]


async def test_an_owner_that_is_gone_is_taken_over_from_and_one_that_was_restarted_is_not() -> None:
    world = World()
    first, second = world.installation("a/one"), world.installation("b/two")
    await world.runs(first, seconds=4)
    await world.runs(first, second, seconds=300)
    world.trigger["status"]["state"] = {"term": "57", "f/place": "x"}
    await world.runs(second, seconds=ANSWER_SECONDS - 10)  # the first one is restarted
    first = world.installation("a/one")
    await world.runs(first, second, seconds=300)
    assert world.owners(first, second) == ["a/one"]
    await world.runs(second, seconds=ASK_SECONDS + ANSWER_SECONDS + 10)
    assert world.owners(first, second) == ["b/two"]
    assert world.trigger["status"]["state"] == {"f/place": "x"}, "the term was that of another Lease"
    await world.runs(first, second, seconds=300)
    assert world.owners(first, second) == ["b/two"], "one that comes back gives way"


async def test_the_condition_ends_when_the_other_one_is_gone() -> None:
    world = World()
    first, second = world.installation("a/one"), world.installation("b/two")
    await world.runs(first, seconds=4)
    await world.runs(first, second, seconds=100)
    await world.runs(first, seconds=FORGET_SECONDS + 10)
    assert first.shown(world.trigger, ACCEPTED) == ACCEPTED
    assert installation_in_status(world.trigger) == {"name": "a/one"}


async def test_two_that_claim_a_new_trigger_at_once_agree() -> None:
    world = World()
    first, second = world.installation("a/one"), world.installation("b/two")
    for one in (first, second):  # both have seen no name
        world.write({"installation": {"name": one._own}})
    await world.runs(first, second, seconds=600)
    assert world.owners(first, second) == ["b/two"]


async def test_alone_it_writes_its_name_once_and_without_a_name_nothing() -> None:
    world = World()
    await world.runs(world.installation("a/one"), seconds=1_000)
    assert world.patches == 1
    nameless = world.installation("")
    assert nameless.other(world.trigger) is None
    assert nameless.fields(world.trigger) == {}
    assert nameless.shown(world.trigger, ACCEPTED) == ACCEPTED


async def test_a_trigger_that_cannot_be_asked_for_stops_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    world = World()
    world.trigger["status"] = {"installation": {"name": "a/one"}}
    asked: list[str] = []

    class Enough(Exception): ...

    class Refusing:
        async def request(self, _: str, path: str, **__: Any) -> Object:
            asked.append(path)
            if len(asked) == 3:
                raise Enough
            raise TimeoutError

    second = Installations(cast("Api", Refusing()), "b/two", lambda: 0.0)
    with pytest.raises(Enough):
        await second.contend(lambda: [world.trigger, world.trigger])
    assert len(asked) == 4, "both are asked for again"


async def test_of_three_installations_one_runs_it_and_one_asks_at_a_time() -> None:
    world = World()
    first, second, third = (world.installation(name) for name in ("a/one", "b/two", "c/three"))
    await world.runs(first, seconds=10)
    await world.runs(first, second, third, seconds=600)
    assert world.owners(first, second, third) == ["a/one"]
    assert world.patches < 40, "a question and an answer a minute"
    await world.runs(second, third, seconds=300)
    (owner,) = world.owners(first, second, third)
    assert owner in ("b/two", "c/three"), "the first one is gone"
    left = [one for one in (second, third) if one._own != owner]
    await world.runs(*left, seconds=600)
    assert world.owners(first, second, third) == [left[0]._own], "the only one that is left"


async def test_a_contender_whose_watch_is_late_takes_nothing_over() -> None:
    world = World()
    first, second = world.installation("a/one"), world.installation("b/two")
    await world.runs(first, seconds=4)
    await second._contend_for(copy.deepcopy(world.trigger))
    seen = copy.deepcopy(world.trigger)
    second._age(seen)
    await world.runs(first, seconds=ANSWER_SECONDS + 10)
    with pytest.raises(Refused):
        await second._contend_for(seen)
    assert world.owners(first, second) == ["a/one"]


async def test_a_question_about_a_resource_that_is_gone_is_forgotten() -> None:
    world = World()
    first, second = world.installation("a/one"), world.installation("b/two")
    await world.runs(first, seconds=4)
    await world.runs(first, second, seconds=100)
    world.time += 2 * FORGET_SECONDS
    for one in (first, second):
        one._forget_old_questions()
        assert one._asked == {}


async def test_a_resource_whose_request_hangs_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    asked, all_others = set(), asyncio.Event()
    others = [f"t-{number}" for number in range(10)]

    class Slow:
        async def request(self, _: str, path: str, **__: Any) -> None:
            name = path.split("/")[-2]
            if name == "hangs":
                await asyncio.Event().wait()
            asked.add(name)
            if asked == set(others):
                all_others.set()

    def resource(name: str) -> Object:
        metadata = {"uid": name, "namespace": "shop", "name": name}
        status = {"installation": {"name": "a/one"}}
        return {"apiVersion": "kubeirq.dev/v1", "kind": "CronTrigger", "metadata": metadata, "status": status}

    found = [resource(name) for name in ("hangs", *others)]
    running = asyncio.create_task(Installations(cast("Api", Slow()), "b/two", lambda: 0.0).contend(lambda: found))
    try:
        async with asyncio.timeout(20):
            await all_others.wait()
    finally:
        running.cancel()
        await asyncio.wait({running})
