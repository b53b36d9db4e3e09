"""A trigger's status as durable state: fenced, with few writes, and kept while the API server is unreachable."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from servers.controllers import Cluster, cluster, own_cluster, resource
from servers.kubernetes import APIServer

from controllers.cluster.api import Api
from controllers.triggers.status import StatusState, TriggerStatus
from controllers.triggers.status import hand_over as hand_over_in
from trigger_sources.dispatch.former_target import former_of
from trigger_sources.source import SourceError


def trigger(server: APIServer, folder: Path) -> AbstractAsyncContextManager[tuple[Cluster, Api, dict[str, Any]]]:
    return trigger_on(cluster(server, folder))


@asynccontextmanager
async def trigger_on(
    place: AbstractAsyncContextManager[Cluster],
) -> AsyncIterator[tuple[Cluster, Api, dict[str, Any]]]:
    async with place as it:
        await it.apply(resource("CronTrigger", "tick", {"schedule": "@yearly", "url": "http://127.0.0.1:1/"}))
        found = await it.get("crontrigger", "tick")
        configuration = Configuration()
        await config.load_kube_config(config_file=str(it.server.kubeconfig), client_configuration=configuration)
        async with ApiClient(configuration) as client:
            yield it, Api(client), found


@pytest.mark.timeout(60)
async def test_a_former_holder_cannot_write_after_another_has_begun(kubernetes: APIServer, tmp_path: Path) -> None:
    async with trigger(kubernetes, tmp_path) as (it, client, found):
        old = StatusState(TriggerStatus(client, found, term=lambda: 7, fenced=True), "f")
        new = StatusState(TriggerStatus(client, found, term=lambda: 8, fenced=True), "f")
        assert await old.get("ticks") is None
        await old.put("ticks", b"1")
        assert await new.get("ticks") == b"1"
        with pytest.raises(SourceError) as caught:
            await old.put("ticks", b"2")
        assert caught.value.reason == "LeaseLost"
        with pytest.raises(SourceError):
            await old.get("ticks")
        await new.put("ticks", b"3")
        assert (await it.get("crontrigger", "tick"))["status"]["state"] == {"term": "8", "f/ticks": "3"}
        await new.delete("ticks")
        assert (await it.get("crontrigger", "tick"))["status"]["state"] == {"term": "8"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("term", ["", "eight", "-3", "9" * 40])
async def test_a_term_that_is_no_number_locks_nobody_out(kubernetes: APIServer, tmp_path: Path, term: str) -> None:
    async with trigger(kubernetes, tmp_path) as (it, client, found):
        state = {"status": {"state": {"term": term, "f/ticks": "1"}}}
        await it.server.kubectl(
            "patch", "crontrigger", "tick", "--subresource=status", "--type=merge", "--patch", json.dumps(state)
        )
        own = StatusState(TriggerStatus(client, found, term=lambda: 7, fenced=True), "f")
        assert await own.get("ticks") == b"1"
        await own.put("ticks", b"2")
        assert (await it.get("crontrigger", "tick"))["status"]["state"] == {"term": "7", "f/ticks": "2"}


@pytest.mark.timeout(60)
async def test_many_changes_share_few_writes_and_each_is_durable_when_it_returns(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with trigger(kubernetes, tmp_path) as (it, client, found):
        state = StatusState(TriggerStatus(client, found, term=lambda: 1, fenced=True), "f")
        before = len(it.server.writes(resource="crontriggers"))
        await asyncio.gather(*(state.put(f"key-{number}", b"x") for number in range(50)))
        await asyncio.gather(*(state.put(f"key-{number}", b"y") for number in range(50)))
        written = (await it.get("crontrigger", "tick"))["status"]["state"]
        assert [written[f"f/key-{number}"] for number in range(50)] == ["y"] * 50
        assert len(it.server.writes(resource="crontriggers")) - before == 2


@pytest.mark.timeout(60)
async def test_a_change_that_changes_nothing_writes_nothing(kubernetes: APIServer, tmp_path: Path) -> None:
    async with trigger(kubernetes, tmp_path) as (it, client, found):
        one, other = (StatusState(TriggerStatus(client, found, term=lambda: 1, fenced=False), "f") for _ in range(2))
        await one.put("place", b"1")
        before = len(it.server.writes(resource="crontriggers"))
        await one.put("place", b"1")
        await other.put("place", b"1")
        await one.delete("no-such-key")
        assert len(it.server.writes(resource="crontriggers")) == before
        await other.put("place", b"2")
        await one.put("place", b"1")  # `one` read "1" before `other` wrote "2"
        assert (await it.get("crontrigger", "tick"))["status"]["state"] == {"f/place": "1"}


@pytest.mark.timeout(90)
async def test_a_change_waits_for_an_unreachable_api_server_and_keeps_the_changes_of_others(tmp_path: Path) -> None:
    async with trigger_on(own_cluster(tmp_path)) as (it, client, found):
        state = StatusState(TriggerStatus(client, found, term=lambda: 1, fenced=True), "f")
        await state.put("ticks", b"1")
        await it.server.kubectl("label", "crontrigger", "tick", "app=shop")  # another version than was read
        await state.put("ticks", b"2")
        await it.server.kill("kube-apiserver")
        changing = asyncio.create_task(state.put("ticks", b"3"))
        await asyncio.wait({changing}, timeout=2)
        assert not changing.done()
        await it.server.run_again("kube-apiserver")
        await changing
        found = await it.get("crontrigger", "tick")
        assert found["status"]["state"]["f/ticks"] == "3"
        assert found["metadata"]["labels"] == {"app": "shop"}


@pytest.mark.timeout(60)
async def test_a_trigger_that_was_deleted_and_created_again_starts_with_empty_state(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with trigger(kubernetes, tmp_path) as (it, client, found):
        state = StatusState(TriggerStatus(client, found, term=lambda: 1, fenced=True), "f")
        await state.put("ticks", b"1")
        await it.server.kubectl("delete", "crontrigger", "tick")
        await it.apply(resource("CronTrigger", "tick", {"schedule": "@yearly", "url": "http://127.0.0.1:1/"}))
        with pytest.raises(SourceError) as caught:
            await state.put("ticks", b"2")
        assert caught.value.reason == "TriggerGone"
        assert "state" not in (await it.get("crontrigger", "tick")).get("status", {})


@pytest.mark.timeout(60)
async def test_the_state_of_a_former_function_goes_over_once_though_two_replicas_try(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with trigger(kubernetes, tmp_path) as (it, client, found):
        statuses = [TriggerStatus(client, found, term=lambda: 1, fenced=False) for _ in range(2)]
        a, b = (StatusState(statuses[0], name) for name in ("a", "b"))
        await asyncio.gather(a.put("k", b"1"), a.put("place/t/0", b"5"), b.put("old", b"0"))
        await a.delete("gone")

        async def hand_over(function: str, *ended: str) -> list[str | None]:
            decide = partial(former_of, function, ended)
            formers = await asyncio.gather(*(hand_over_in(status, function, decide) for status in statuses))
            return sorted((former.function for former in formers), key=str)

        assert await hand_over("b", "a") == [None, "a"]
        state = (await it.get("crontrigger", "tick"))["status"]["state"]
        assert state == {"b/k": "1", "b/place/t/0": "5", "/target": "b"}
        await StatusState(statuses[1], "a").put("late", b"another replica's")
        assert await hand_over("b", "a") == [None, None]
        assert await hand_over("a") == [None, "b"]
        state = (await it.get("crontrigger", "tick"))["status"]["state"]
        assert state == {"a/k": "1", "a/place/t/0": "5", "/target": "a"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fenced", [False, True])
async def test_a_status_that_a_watch_brought_costs_one_request(
    kubernetes: APIServer, tmp_path: Path, *, fenced: bool
) -> None:
    async with trigger(kubernetes, tmp_path) as (it, client, found):
        status = TriggerStatus(client, found, term=lambda: 1, fenced=fenced)
        for generation in (1, 2):
            status.observe(found)
            it.server.forget()
            await status.change({"observedGeneration": generation})
            asked = it.server.audit(resource="crontriggers")
            assert [event["verb"] for event in asked if not event["userAgent"].startswith("kubectl")] == ["patch"]
            await it.server.kubectl(
                "label", "--overwrite", "crontrigger", "tick", f"app=v{generation}"
            )  # a newer version
            found = await it.get("crontrigger", "tick")
        assert found["status"]["observedGeneration"] == 2


@pytest.mark.timeout(60)
async def test_an_outdated_watch_event_locks_out_a_former_holder_and_loses_no_change(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with trigger(kubernetes, tmp_path) as (it, client, found):
        own, later = (TriggerStatus(client, found, term=lambda term=term: term, fenced=True) for term in (7, 8))  # type: ignore[misc]
        own.observe(found)
        await later.change({"state": {"f/place": "later's"}})
        with pytest.raises(SourceError) as caught:
            await own.change({"state": {"f/place": "own"}})  # from the outdated version
        assert caught.value.reason == "LeaseLost"
        own.observe(await it.get("crontrigger", "tick"))
        with pytest.raises(SourceError):
            await own.change({"state": {"f/place": "own"}})
        assert (await it.get("crontrigger", "tick"))["status"]["state"] == {"term": "8", "f/place": "later's"}
