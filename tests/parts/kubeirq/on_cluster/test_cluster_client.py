"""The cluster client sends requests to a trigger's controllers inside their pods.

The test stands in for the API server. For each exec it starts the real command, on the real admin API of real flows.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from kubernetes.aio.client import ApiClient, Configuration
from servers.flow_admin import Served, admin
from servers.scripted import Answer, Call, scripted

from kubeirq.fabric_client import Refused
from kubeirq.message import Message
from kubeirq.on_cluster.client import ClusterClient
from kubeirq.on_cluster.connection import Cluster
from kubeirq.on_cluster.replicas import stream_lines

KINDS = [
    {"resource": "functions", "responseKind": {"kind": "Function"}, "categories": ["kubeirq"]},
    {"resource": "listtriggers", "responseKind": {"kind": "ListTrigger"}, "categories": ["kubeirq"]},
]
TRIGGER = {
    "metadata": {"name": "t", "namespace": "default", "uid": "uid-t", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"function": "f"},
}


@dataclass
class FarSide:
    """An API server with the pods of one controller, by name: the admin socket, or None while the image is missing."""

    sockets: dict[str, Path | None]
    may_exec: bool = True
    script: tuple[str, ...] = (sys.executable, "-m", "controllers.ask")
    execs: list[str] = field(default_factory=list)
    patches: list[Any] = field(default_factory=list)

    def application(self) -> web.Application:
        application = web.Application()
        resources = "/apis/kubeirq.dev/v1/namespaces/{namespace}"
        application.add_routes(
            [
                web.get("/apis", self.discovery),
                web.get(f"{resources}/functions", self.nothing),
                web.get(f"{resources}/listtriggers", self.triggers),
                web.patch(f"{resources}/listtriggers/t", self.patch),
                web.get("/api/v1/pods", self.pods),
                web.get("/api/v1/namespaces/system/pods/{pod}/exec", self.execute),
            ]
        )
        return application

    async def discovery(self, request: web.Request) -> web.Response:
        group = {"metadata": {"name": "kubeirq.dev"}, "versions": [{"version": "v1", "resources": KINDS}]}
        return web.json_response({"items": [group]})

    async def nothing(self, request: web.Request) -> web.Response:
        return web.json_response({"items": []})

    async def triggers(self, request: web.Request) -> web.Response:
        namespace = request.match_info["namespace"]
        names = {"default": ["t"], "shop": ["t", "points"]}.get(namespace, [])
        metadata = {**TRIGGER["metadata"], "namespace": namespace}
        items = [{**TRIGGER, "metadata": {**metadata, "name": name, "uid": f"uid-{name}"}} for name in names]
        return web.json_response({"items": items})

    async def patch(self, request: web.Request) -> web.Response:
        self.patches.append(json.loads(await request.text()))
        return web.json_response(TRIGGER)

    async def pods(self, request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "app.kubernetes.io/name=kubeirq,app.kubernetes.io/component=list"
        items = [
            {
                "metadata": {"name": name, "namespace": "system", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"containers": [{"name": "controller"}]},
                "status": {"phase": "Running"}
                if socket is not None
                else {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]},
            }
            for name, socket in self.sockets.items()
        ]
        return web.json_response({"items": items, "metadata": {}})

    async def execute(self, request: web.Request) -> web.StreamResponse:
        if not self.may_exec:
            return web.json_response({"kind": "Status", "message": "forbidden"}, status=403)
        assert request.query.getall("command") == ["python3", "-m", "controllers.ask"]
        assert request.query["container"] == "controller"
        pod = request.match_info["pod"]
        self.execs.append(pod)
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        process = await asyncio.create_subprocess_exec(
            *self.script, stdin=-1, stdout=-1, stderr=-1,
            env={**os.environ, "KUBEIRQ_ADMIN_SOCKET": str(self.sockets[pod])},
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        message = await socket.receive()
        assert message.type is WSMsgType.BINARY and message.data[0] == 0
        process.stdin.write(message.data[1:])
        while data := await process.stdout.read(100):  # in pieces that may end in the middle of a line
            await socket.send_bytes(b"\x01" + data)
        if complaint := await process.stderr.read():
            await socket.send_bytes(b"\x02" + complaint)
        failed = {"status": "Failure", "message": "command terminated with non-zero exit code"}
        ended = {"status": "Success"} if await process.wait() == 0 else failed
        await socket.send_bytes(b"\x03" + json.dumps(ended).encode())
        await socket.close()
        return socket


@asynccontextmanager
async def client_of(far_side: FarSide) -> AsyncIterator[ClusterClient]:
    runner = web.AppRunner(far_side.application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        address = runner.addresses[0]
        async with ApiClient(Configuration(host=f"http://{address[0]}:{address[1]}")) as client:
            yield ClusterClient(Cluster(client, "test", "default"), None)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def two_replicas(tmp_path: Path, url: str, **spec: Any) -> AsyncIterator[tuple[FarSide, Served, Served]]:
    async with AsyncExitStack() as stack:
        for name in ("list-1", "list-2"):
            (tmp_path / name).mkdir()
        one, two = [
            await stack.enter_async_context(admin(tmp_path / name, url, replica=name, **spec))
            for name in ("list-1", "list-2")
        ]
        yield FarSide({"list-1": one.socket, "list-2": two.socket, "list-3": None}), one, two


async def test_describe_merges_the_states_of_replicas_and_names_those_that_do_not_answer(tmp_path: Path) -> None:
    async with (
        scripted() as function,
        two_replicas(tmp_path, function.url) as (far_side, one, two),
        client_of(far_side) as it,
    ):
        for replica in (one, one, two):
            replica.broker.publish()
        for replica, count in ((one, 2), (two, 1)):
            await replica.until("/v1/status", lambda s, n=count: s["triggers"][0]["counters"]["delivered"] == n)
        (found,) = await it.describe("t")
        assert found.value["flows"][0]["counters"]["delivered"] == 3
        text = "\n".join(found.lines)
        assert "received 3, delivered 3" in text
        assert "replica list-1: held 0" in text
        assert "replica list-3: no answer: ErrImagePull" in text

        far_side.may_exec = False
        text = "\n".join((await it.describe("t"))[0].lines)
        assert "dead letters are not known: no permission: get and create for pods/exec in namespace system" in text
        with pytest.raises(Refused, match=r"no permission: .* pods/exec in namespace system"):
            await it.dead_letters(await it.trigger("t"), 10)


async def test_a_name_may_have_its_namespace(tmp_path: Path) -> None:
    async with client_of(FarSide({})) as it:
        (found,) = await it.describe("shop/points")
        assert found.lines[0] == "ListTrigger shop/points"
        assert (await it.trigger("shop/points"))["namespace"] == "shop"
        overview = await it.overview("shop/t", False)
        assert [one["namespace"] for one in overview.value["triggers"]] == ["shop"]
        assert (await it.trigger("t"))["namespace"] == "default"
        assert (await it.trigger("ListTrigger/t"))["namespace"] == "default"
        with pytest.raises(Refused, match="no list controller runs in any namespace"):
            [line async for line in it.logs("shop/points", 1, False)]
        with pytest.raises(
            Refused, match="no function or trigger 'shop/point' in namespace shop; did you mean 'points'"
        ):
            await it.describe("shop/point")
        with pytest.raises(Refused, match="no function 'shop/f' in namespace shop"):
            await it.call("shop/f", Message())
        with pytest.raises(Refused, match="no trigger 'bank/t' in namespace bank"):
            await it.publish("bank/t", Message(), 1)


async def test_dead_letters_come_from_one_replica_and_lanes_from_all(tmp_path: Path, capsys: Any) -> None:
    answers = {"bad": 422}

    async def decide(call: Call) -> Answer:
        return answers.get(call.body.decode(), 200)

    async with (
        scripted(decide) as function,
        two_replicas(tmp_path, function.url) as (far_side, one, _),
        client_of(far_side) as it,
    ):
        one.broker.publish(b"bad")
        one.broker.publish(b"bad")
        base = "/v1/triggers/default/ListTrigger/t"
        await one.until(f"{base}/dead-letters", lambda found: len(found["deadLetters"]) == 2)
        trigger = await it.trigger("t")
        far_side.execs.clear()
        letters = await it.dead_letters(trigger, 10)
        assert [letter["reason"] for letter in letters] == ["PermanentAnswer"] * 2
        assert sorted(far_side.execs) == ["list-1", "list-1", "list-2"], (
            "both for their status, then one of those that run it"
        )
        assert "replica list-3 did not answer: ErrImagePull" in capsys.readouterr().err
        shown = await it.dead_letter(trigger, letters[0]["identity"])
        assert shown["data"] == "YmFk"
        with pytest.raises(Refused, match="no dead letter 'f/none'"):
            await it.dead_letter(trigger, "f/none")
        answers.clear()
        request = {"identities": [letters[0]["identity"]], "ratePerSecond": None, "dryRun": False}
        lines = [line async for line in it.redrive(trigger, request)]
        assert (lines[0]["outcome"], lines[-1]) == (
            "delivered",
            {"done": True, "delivered": 1, "failed": 0, "unreadable": []},
        )
        assert await it.purge(trigger, None) == (1, [])
        assert await it.lanes(trigger) == []
        assert await it.act_on_lanes(trigger, "release", None) == 0
        await it.resume(trigger)
        await it.suspend(trigger)
        assert far_side.patches == [{"spec": {"suspend": True}}]


async def test_an_incomplete_or_missing_answer_is_reported_as_an_error(tmp_path: Path) -> None:
    head = '{"status": 200, "headers": {}}'
    cases = {
        f"print('{head}'); print('e30=')": "its answer ended early",
        "raise SystemExit('no module named controllers')": "no module named controllers",
        "print('{\"error\": \"no admin API answers\"}'); print('.')": "no admin API answers",
    }
    for script, text in cases.items():
        far_side = FarSide({"list-1": tmp_path}, script=(sys.executable, "-c", script))
        async with client_of(far_side) as it:
            (found,) = await it.describe("t")
            assert text in "\n".join(found.lines)
            with pytest.raises(Refused, match=text):
                await it.dead_letters(await it.trigger("t"), 10)
    async with client_of(FarSide({})) as it:
        with pytest.raises(Refused, match="no list controller runs in any namespace"):
            await it.lanes(await it.trigger("t"))


async def test_lines_arrive_as_they_are_written(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 422 if not freed.is_set() else 200

    freed = asyncio.Event()
    async with (
        scripted(decide) as function,
        two_replicas(tmp_path, function.url) as (far_side, one, _),
        client_of(far_side) as it,
    ):
        for _ in range(3):
            one.broker.publish()
        base = "/v1/triggers/default/ListTrigger/t"
        await one.until(f"{base}/dead-letters", lambda found: len(found["deadLetters"]) == 3)
        freed.set()
        trigger = await it.trigger("t")
        (replica, *_) = await it._controllers.holders(trigger)
        request = {"ratePerSecond": 5}
        lines = stream_lines(it._cluster, replica, "POST", f"{base}/dead-letters/redrive", request)
        came_at = [asyncio.get_running_loop().time() async for _ in lines]
        assert len(came_at) == 4
        assert came_at[-1] - came_at[0] > 0.3, "not all at the end"


async def test_describe_tells_what_a_filter_that_lets_nothing_through_saw_and_which_lanes_wait(tmp_path: Path) -> None:
    async with (
        scripted() as function,
        two_replicas(tmp_path, function.url, filter="data.currency == 'EUR'") as (far_side, one, _),
        client_of(far_side) as it,
    ):
        for _ in range(12):
            one.broker.publish(b'{"currency": "eur"}')
        await one.until("/v1/status", lambda found: found["triggers"][0]["counters"]["filtered"] == 12)
        (found,) = await it.describe("t")
        text = "\n".join(found.lines)
        assert "  filter false for the last 12 events, since " in text
        assert '  the last event that the filter kept out: data.currency = "eur"' in text
        status = await one.until("/v1/status", lambda found: True)
        assert "eur" not in json.dumps(status), "the right to see flows includes no payloads"
        one.broker.publish(b'{"currency": "EUR"}')
        await one.until("/v1/status", lambda found: found["triggers"][0]["counters"]["delivered"] == 1)
        assert "filter false" not in "\n".join((await it.describe("t"))[0].lines)


async def test_describe_names_the_lanes_that_wait(tmp_path: Path) -> None:
    async def refuse(call: Call) -> Answer:
        return 422

    spec = {"ordering": "key", "delivery": {"onFailure": "park", "attempts": 1}}
    async with (
        scripted(refuse) as function,
        two_replicas(tmp_path, function.url, **spec) as (far_side, one, _),
        client_of(far_side) as it,
    ):
        one.broker.publish(b"{}", key="D17")
        await one.until("/v1/triggers/default/ListTrigger/t/lanes", lambda found: bool(found["lanes"]))
        await one.until("/v1/status", lambda found: found["triggers"][0]["conditions"][0]["reason"] == "Parked")
        assert "  lane D17 waits: parked for " in "\n".join((await it.describe("t"))[0].lines)
