"""One trigger's resource or handover does nothing to the others of its controller."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from servers.controller_in_memory import Cluster, Object, OneLease, running, trigger
from servers.live_edits import is_ready

from controllers.cluster.api import Api
from controllers.cluster.owned_objects import OwnedObjects
from controllers.triggers.status_reporter import StatusReporter


class Slow:
    """A function that takes its time."""

    def __init__(self) -> None:
        self.called, self.may_end = asyncio.Event(), asyncio.Event()
        self.answered = 0
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.called.set()
                await self.may_end.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
                self.answered += 1
        writer.close()


@asynccontextmanager
async def slow_function() -> AsyncIterator[Slow]:
    slow = Slow()
    async with await asyncio.start_server(slow.handle, "127.0.0.1", 0) as server:
        slow.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield slow
        slow.may_end.set()


async def test_no_trigger_runs_before_all_triggers_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch may bring the younger of two triggers with one route first: the route is the older one's."""
    may_list, asked = asyncio.Event(), asyncio.Event()
    listed = Cluster.list

    async def late(self: Cluster, *arguments: Any, **options: Any) -> list[Object]:
        asked.set()
        await may_list.wait()
        return await listed(self, *arguments, **options)

    monkeypatch.setattr(Cluster, "list", late)
    older, younger = (trigger(name, "HTTPTrigger", function="f", path="/pay") for name in ("older", "younger"))
    younger["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    async with running(older, younger) as (controller, _):
        await asked.wait()
        controller._on_trigger({"type": "ADDED", "object": younger})
        for _ in range(20):
            await asyncio.sleep(0)
        assert not controller.flows.running
        may_list.set()
        await controller.synced.wait()
        assert [found.resource.name for found in controller.flows.running.values()] == ["older"]


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        (
            trigger("good", function="f"),
            trigger("bad", function="f", schedule=None, at="9999-12-31T23:59:59-01:00"),
            "spec: at: ",
        ),
        (
            trigger("good", "KafkaTrigger", function="f", topics=["t"], brokers=["127.0.0.1:1"]),
            trigger("bad", "KafkaTrigger", function="f", topics=["t"], filter="(" * 200_000),
            "spec.filter: ",
        ),
        (trigger("good", function="f"), trigger("bad", url="http://host:99999/"), "spec.target.url: "),
        (trigger("good", function="f"), trigger("bad", url="http://[::1/"), "spec.target.url: "),
        (trigger("good", function="f"), trigger("bad", url="http://me:s3cret@host/"), "spec.target.url: "),
        (trigger("good", function="f"), trigger("bad", function="there.other.svc:8080/x?"), "spec.target.function: "),
    ],
)
async def test_a_bad_trigger_is_told_so_and_ends_nothing_else(good: Object, bad: Object, said: str) -> None:
    async with running(good, bad) as (_, task):
        async with asyncio.timeout(10):
            while "conditions" not in bad.get("status", {}) and not task.done():
                await asyncio.sleep(0.05)
        assert not task.done(), task.exception()
        ready = next(found for found in bad["status"]["conditions"] if found["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Invalid")
    assert ready["message"].startswith(said)
    assert "s3cret" not in ready["message"]


async def test_a_lost_lease_leaves_calls_under_way_the_short_time_only_whoever_hears_of_it_first() -> None:
    lease = OneLease()
    async with slow_function() as slow, running(trigger("t", url=slow.url), lease=lease) as (controller, _):
        await slow.called.wait()
        lease.has = False
        began = time.monotonic()
        controller.leases_changed()
        await asyncio.create_task(controller.drain(lambda uid: True))
        assert time.monotonic() - began < 5
        assert not controller.flows.running


async def test_a_stop_while_an_edit_drains_cuts_no_call() -> None:
    async with slow_function() as slow:
        async with running(trigger("t", url=slow.url)) as (controller, task):
            await slow.called.wait()
            edited = trigger("t", generation=2, url=slow.url, payload=1)
            controller._on_trigger({"type": "MODIFIED", "object": edited})
            while not controller.queue._running:
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.sleep(0.05)
            slow.may_end.set()
            with suppress(asyncio.CancelledError):
                await task
        assert slow.answered == 1


async def test_the_status_is_about_the_spec_that_runs_while_an_edit_waits_for_a_call() -> None:
    def ready() -> tuple[Any, ...]:
        status = made.get("status", {})
        conditions = {found["type"]: found for found in status.get("conditions", [])}
        condition = conditions.get("Ready", {})
        return status.get("observedGeneration"), condition.get("observedGeneration"), condition.get("status")

    async def until(wanted: tuple[Any, ...]) -> None:
        async with asyncio.timeout(10):
            while ready() != wanted:
                await asyncio.sleep(0.01)

    async with slow_function() as slow:
        made = trigger("t", url=slow.url)
        async with running(made) as (controller, _):
            await slow.called.wait()
            controller._gates.of("a", "f").open()
            await until((1, 1, "True"))
            edited = trigger("t", generation=2, url=slow.url, payload=1)
            controller._on_trigger({"type": "MODIFIED", "object": edited})
            while not controller.queue._running:
                await asyncio.sleep(0)
            for _ in range(3):  # the reporter looks once a second
                await controller._statuses.write(("CronTrigger", "a", "t"))
                await asyncio.sleep(0.1)
            assert ready() == (1, 1, "True")
            slow.may_end.set()
            await until((2, 2, "True"))


async def test_a_trigger_that_is_being_deleted_does_not_run() -> None:
    made = trigger("t", url="http://127.0.0.1:1/")
    async with running(made) as (controller, _), asyncio.timeout(10):
        while not controller.flows.running:
            await asyncio.sleep(0.01)
        deleted = trigger("t", url="http://127.0.0.1:1/")
        deleted["metadata"] |= {"deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": ["a/b"]}
        controller._on_trigger({"type": "MODIFIED", "object": deleted})
        while controller.flows.running:
            await asyncio.sleep(0.01)
        while [found["reason"] for found in made.get("status", {}).get("conditions", [])[:1]] != ["Deleting"]:
            await asyncio.sleep(0.01)


async def test_the_functions_of_an_earlier_selector_leave_the_status() -> None:
    made = trigger("t", url="http://127.0.0.1:1/")
    made["status"] = {"functions": ["f"]}
    async with running(made), asyncio.timeout(10):
        while made["status"].get("functions") is not None:
            await asyncio.sleep(0.01)


async def test_what_only_has_the_label_is_nobodys_to_remove() -> None:
    labels = {"kubeirq.dev/function": "f"}  # as `kubectl expose deployment f --name public` copies them
    mine = {"name": "old", "namespace": "a", "uid": "1", "labels": labels, "ownerReferences": [{"uid": "u"}]}
    theirs = {"name": "public", "namespace": "a", "uid": "2", "labels": labels}
    objects = [{"apiVersion": "v1", "kind": "Service", "metadata": found} for found in (mine, theirs)]
    owned = OwnedObjects(cast(Api, Cluster(*objects)), [("v1", "Service")], label="kubeirq.dev/function")
    await owned.refresh()
    owner = {"kind": "Function", "metadata": {"name": "f", "namespace": "a", "uid": "u"}}
    assert [found["metadata"]["name"] for found in owned.unwanted(owner, [])] == ["old"]


async def test_an_edit_is_ready_when_its_flow_serves_without_a_poll_of_the_statuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def poll(_: StatusReporter) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(StatusReporter, "poll", poll)
    found = trigger("orders", "HTTPTrigger", url="http://127.0.0.1:9/")
    async with running(found) as (controller, _):
        edited = trigger("orders", "HTTPTrigger", generation=2, url="http://127.0.0.1:9/", path="/new")
        async with asyncio.timeout(10):
            while not is_ready(found):
                await asyncio.sleep(0.01)
            edited["metadata"]["resourceVersion"], edited["status"] = "2", dict(found["status"])
            controller._on_trigger({"type": "MODIFIED", "object": edited})
            found["metadata"]["generation"] = 2
            while not is_ready(found):
                await asyncio.sleep(0.01)
