"""The status of a trigger that runs in every replica waits for the other replicas, without a write too many."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import pytest
from servers.controller_in_memory import Object, OneLease, running, trigger
from servers.live_edits import is_ready

from controllers.cluster.api import Object as Status
from controllers.triggers import status_reporter
from controllers.triggers.in_force import Peer
from controllers.triggers.served import Served, ServedTriggers

URL = "http://127.0.0.1:9/"


class Others:
    """The other replicas, as `Peers` has them."""

    def __init__(self, *peers: Peer) -> None:
        self.found: Collection[Peer] | str = list(peers)
        self.on_change: Callable[[Collection[str] | None], None] = lambda uids: None

    def tell(self, uid: str, generation: int, *ready: str) -> None:
        for peer in self.found:
            assert isinstance(peer, Peer)
            peer.served[uid] = Served(generation, *(ready or ("True", "Ready", "")))  # type: ignore[arg-type]
        self.on_change({uid})


def other() -> Others:
    return Others(Peer("b", is_ready=True, has_answered=True))


def edited(found: Object, generation: int, **spec: Any) -> Object:
    metadata = {**found["metadata"], "generation": generation, "resourceVersion": str(generation)}
    return {**found, "metadata": metadata, "spec": {**found["spec"], **spec}, "status": dict(found["status"])}


def edit(controller: Any, found: Object, generation: int, **spec: Any) -> None:
    controller._on_trigger({"type": "MODIFIED", "object": edited(found, generation, **spec)})
    found["metadata"]["generation"] = generation


def ready_of(found: Object) -> tuple[str, str, str]:
    conditions: list[Status] = found.get("status", {}).get("conditions", [])
    ready = next((each for each in conditions if each["type"] == "Ready"), {})
    return ready.get("status", ""), ready.get("reason", ""), ready.get("message", "")


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_reporter, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(status_reporter, "_POLL_SHARE", 1.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_reporter, "_OTHERS_SECONDS", 600.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_reporter, "_OTHERS_SECONDS", 0.1)


@pytest.mark.usefixtures("patient")
async def test_an_edit_is_ready_when_the_last_replica_serves_it_and_costs_one_write() -> None:
    found, others = trigger("t", "HTTPTrigger", url=URL), other()
    async with running(found, peers=others) as (controller, _):
        others.tell("t", 1)
        await until(lambda: is_ready(found))
        writes = controller._api.writes
        edit(controller, found, 2, path="/new")
        await until(lambda: controller._triggers.by_uid("t").waits is not None)
        await asyncio.sleep(0.2)
        assert controller._api.writes == writes, "nothing is said while the edit is on its way"
        assert found["status"]["observedGeneration"] == 1
        others.tell("t", 2)
        await until(lambda: is_ready(found))
        assert controller._api.writes == writes + 1
        await asyncio.sleep(0.2)
        assert controller._api.writes == writes + 1, "at rest"


@pytest.mark.usefixtures("impatient")
async def test_a_replica_that_does_not_follow_is_named_and_the_former_generation_stays_observed() -> None:
    found, others = trigger("t", "HTTPTrigger", url=URL), other()
    async with running(found, peers=others) as (controller, _):
        await until(lambda: ready_of(found) == ("Unknown", "ReplicaBehind", "replica b does not serve it yet"))
        assert found["status"]["observedGeneration"] == 0
        others.tell("t", 1)
        await until(lambda: is_ready(found))
        edit(controller, found, 2, path="/new")
        said = "replica b serves generation 1 of the spec, and 2 is wanted"
        await until(lambda: ready_of(found) == ("Unknown", "ReplicaBehind", said))
        conditions = {each["type"]: each for each in found["status"]["conditions"]}
        assert found["status"]["observedGeneration"] == conditions["Ready"]["observedGeneration"] == 1
        assert conditions["Reconciling"]["status"] == "True"
        writes = controller._api.writes
        await asyncio.sleep(0.2)
        assert controller._api.writes == writes, "it is said once"
        others.tell("t", 2)
        await until(lambda: is_ready(found))


@pytest.mark.usefixtures("impatient")
async def test_a_replica_where_the_trigger_is_not_ready_decides() -> None:
    found, others = trigger("t", "HTTPTrigger", url=URL), other()
    async with running(found, peers=others):
        others.tell("t", 1, "False", "FunctionDown", "f: no replica is ready")
        await until(lambda: ready_of(found) == ("False", "FunctionDown", "replica b: f: no replica is ready"))
        assert found["status"]["observedGeneration"] == 1
        others.tell("t", 1)
        await until(lambda: is_ready(found))


@pytest.mark.usefixtures("patient")
async def test_a_short_disturbance_in_another_replica_is_not_written() -> None:
    found, others = trigger("t", "HTTPTrigger", url=URL), other()
    async with running(found, peers=others) as (controller, _):
        others.tell("t", 1)
        await until(lambda: is_ready(found))
        writes = controller._api.writes
        others.tell("t", 1, "False", "FunctionDown", "f: no replica is ready")
        await asyncio.sleep(0.2)
        others.tell("t", 1)
        await until(lambda: controller._triggers.by_uid("t").waits is None)
        assert controller._api.writes == writes


@pytest.mark.usefixtures("impatient")
async def test_silence_keeps_only_what_is_new_from_ready() -> None:
    found, others = trigger("t", "HTTPTrigger", url=URL), other()
    async with running(found, peers=others) as (controller, _):
        others.tell("t", 1)
        await until(lambda: is_ready(found))
        (peer,) = others.found
        assert isinstance(peer, Peer)
        peer.silence = "has not said since noon what it serves: timed out"
        peer.served.clear()
        writes = controller._api.writes
        await asyncio.sleep(0.3)
        assert controller._api.writes == writes
        edit(controller, found, 2, path="/new")
        await until(lambda: ready_of(found) == ("Unknown", "ReplicaSilent", f"replica b {peer.silence}"))
        others.found = []
        others.on_change(None)
        await until(lambda: is_ready(found))


@pytest.mark.usefixtures("impatient")
async def test_an_edit_that_stops_the_trigger_is_observed_when_no_replica_serves_the_former_spec() -> None:
    found, others = trigger("t", "HTTPTrigger", url=URL), other()
    async with running(found, peers=others) as (controller, _):
        others.tell("t", 1)
        await until(lambda: is_ready(found))
        edit(controller, found, 2, suspend=True)
        await until(lambda: ready_of(found)[:2] == ("False", "Suspended"))
        assert found["status"]["observedGeneration"] == 1
        others.tell("t", 2, "False", "Suspended", "spec.suspend is true")
        await until(lambda: found["status"]["observedGeneration"] == 2)
        assert ready_of(found) == ("False", "Suspended", "spec.suspend is true")


async def test_a_trigger_that_one_replica_runs_waits_for_nobody_and_is_told_to_nobody() -> None:
    found, others, served = trigger("t", url=URL), other(), ServedTriggers("a")
    async with running(found, peers=others, served=served) as (controller, _):
        controller._gates.of("a", "f").open()
        await until(lambda: is_ready(found))
        assert (await served.answer("", 0))["triggers"] == {}


async def test_a_replica_that_does_not_hold_the_lease_tells_what_it_serves_and_writes_nothing() -> None:
    lease, served = OneLease(), ServedTriggers("a")
    lease.has = False
    found, broken = trigger("t", "HTTPTrigger", url=URL), trigger("broken", "HTTPTrigger", url=URL, filter="(")

    async def told() -> Any:
        return (await served.answer("", 0))["triggers"]

    async with running(found, broken, lease=lease, served=served, peers=Others()) as (controller, _):
        async with asyncio.timeout(20):
            while (await told()).get("t") != [1, "True", "Ready", ""]:
                await asyncio.sleep(0.01)
        assert (await told())["broken"][:3] == [1, "False", "Invalid"]
        found["status"] = {}
        edit(controller, found, 2, path="/new")
        async with asyncio.timeout(20):
            while (await told()).get("t") != [2, "True", "Ready", ""]:
                await asyncio.sleep(0.01)
        controller._on_trigger({"type": "DELETED", "object": edited(found, 2)})
        async with asyncio.timeout(20):
            while "t" in await told():
                await asyncio.sleep(0.01)
        assert controller._api.writes == 0
