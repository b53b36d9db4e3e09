"""The cost of one change does not grow with the number of objects that it does not concern."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from servers.steps import steps

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
NOT_USED = cast(Api, None)


def meta(name: str, version: int, **more: Any) -> Object:
    return {
        "name": name, "namespace": "a", "uid": name, "generation": 1, "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z", **more,
    }  # fmt: skip


def trigger(name: str, kind: str = "CronTrigger", **spec: Any) -> Object:
    spec = {"schedule": "@yearly", **spec} if kind == "CronTrigger" else spec
    return {"apiVersion": "kubeirq.dev/v1", "kind": kind, "metadata": meta(name, 1), "spec": spec}


def function(name: str, version: int = 1) -> Object:
    labels = {"team": "shop"}
    return {"apiVersion": "kubeirq.dev/v1", "kind": "Function", "metadata": meta(name, version, labels=labels)}


def endpoints(name: str, version: int) -> Object:
    labels = {"kubernetes.io/service-name": name, "kubeirq.dev/function": name}
    return {"kind": "EndpointSlice", "metadata": meta(name, version, labels=labels), "endpoints": [{}]}


def controller(kind: str, triggers: int) -> TriggerController:
    """One that has so many triggers, each of its own function, and one trigger that selects functions by labels."""
    store = ClusterStore(lambda uid: found.status_of(uid), NoStore())
    host = LocalHost(replica="one", store=store, gateway=Gateway(), secrets=Secrets().text, defaults={})
    found = TriggerController(NOT_USED, [kind], host, Gates(), Secrets(), SecretWatches(NOT_USED, Secrets()))
    for number in range(triggers):
        see(found, "ADDED", trigger(f"t{number}", kind, function=f"f{number}"))
        found._gates.of("a", f"f{number}")
    found._gates.replace([function(f"f{number}") for number in range(triggers)], [])
    if kind == "CronTrigger":
        see(found, "ADDED", trigger("selecting", functionSelector={"matchLabels": {"team": "shop"}}))
    found.queue._waiting.clear()
    return found


def see(found: TriggerController, kind: str, changed: Object) -> None:
    handlers = {"Function": found._on_function, "EndpointSlice": found._on_endpoint_slice}
    handlers.get(changed["kind"], found._on_trigger)({"type": kind, "object": changed})


@pytest.mark.parametrize("kind", ["CronTrigger", "HTTPTrigger"])
@pytest.mark.parametrize(
    "change",
    [
        lambda it: see(it, "ADDED", function("new", 2)),
        lambda it: see(it, "DELETED", function("f0", 2)),
        lambda it: see(it, "MODIFIED", endpoints("f0", 2)),
        lambda it: it._secrets_changed("a", ["login"]),
        lambda it: list(it._gates.functions("other-namespace")),
    ],
    ids=[
        "a Function is created",
        "a Function is deleted",
        "a function is ready",
        "a Secret changes",
        "other namespace",
    ],
)
async def test_a_change_costs_the_same_beside_ten_times_as_many_triggers(
    kind: str, change: Callable[[TriggerController], None]
) -> None:
    change(controller(kind, 1))  # fills the caches of what it imports
    few, many = (controller(kind, triggers) for triggers in (20, 200))
    assert steps(lambda: change(many)) <= steps(lambda: change(few)) + 10


async def test_a_function_that_comes_or_goes_concerns_the_triggers_that_select_functions() -> None:
    it = controller("CronTrigger", 3)
    see(it, "ADDED", function("new", 2))
    assert list(it.queue._waiting) == [("CronTrigger", "a", "selecting")]
    it.queue._waiting.clear()
    edited = {**trigger("selecting", function="f1"), "metadata": meta("selecting", 3, generation=2)}
    see(it, "MODIFIED", edited)
    it.queue._waiting.clear()
    see(it, "DELETED", function("new", 4))
    assert not it.queue._waiting, "it names its function now"


async def test_a_changed_secret_concerns_the_triggers_that_refer_to_it() -> None:
    it = controller("HTTPTrigger", 2)
    login = {"bearer": {"tokens": [{"name": "login", "key": "token"}]}}
    see(it, "ADDED", trigger("private", "HTTPTrigger", function="f0", auth=login))
    assert it._triggers.get(("HTTPTrigger", "a", "private")).rejection is None  # type: ignore[union-attr]
    it.queue._waiting.clear()
    it._secrets_changed("a", ["login", "another"])
    assert list(it.queue._waiting) == [("HTTPTrigger", "a", "private")]
    assert it._triggers.namespaces_with_secrets == {"a"}
    see(it, "DELETED", trigger("private", "HTTPTrigger", function="f0", auth=login))
    assert not it._triggers.namespaces_with_secrets


async def test_a_changed_lease_concerns_its_own_triggers() -> None:
    it = controller("HTTPTrigger", 5)
    it.leases_changed(lambda uid: uid in ("t1", "t3"))
    assert [name for _, _, name in it.queue._waiting] == ["t1", "t3"]


async def test_polls_of_the_statuses_do_not_count_the_time_of_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """While thousands of flows start, the next poll would otherwise come after minutes."""
    it, polls, looked = controller("CronTrigger", 200), 0, asyncio.Event()

    def holds(uid: str) -> bool:
        nonlocal polls
        polls += uid == "t0"
        if polls == 2:
            looked.set()
        return False

    async def other_work() -> None:
        while True:
            time.sleep(0.3)  # noqa: ASYNC251  it keeps the loop busy
            await asyncio.sleep(0.01)

    monkeypatch.setattr(it.leases, "holds", holds)
    it.synced.set()
    tasks = [asyncio.create_task(work) for work in (it._statuses.poll(), other_work())]
    async with asyncio.timeout(10):  # one poll and the other work take half a second, fifty times of which is 25 s
        await looked.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_comparison_of_body_limits_leaves_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    it, slept = controller("CronTrigger", 1_000), list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if seconds:
            raise asyncio.CancelledError

    it.synced.set()
    monkeypatch.setattr("controllers.triggers.status_reporter.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await it._statuses.compare_body_limits()
    assert slept == [0] * 10 + [5.0], "after each hundred triggers, and after all"
