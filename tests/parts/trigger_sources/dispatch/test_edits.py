"""An edit of a live HTTP trigger, or a rotated Secret, refuses no caller: the new flow serves, and the old one ends."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from servers.scripted import Answer, Call, Scripted, scripted

from trigger_sources.context import Context
from trigger_sources.delivery import Delivery
from trigger_sources.dispatch.flows import Flows, TriggerResource
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http import HTTPTrigger
from trigger_sources.http.gateway import Gateway
from trigger_sources.http_requests import Route
from trigger_sources.source import MissingSecret, Sharing, TriggerSource
from trigger_sources.spec import SecretRef
from trigger_sources.stores.sqlite import Store

BEARER = {"bearer": {"tokens": [{"name": "token", "key": "t"}]}}
SLOW = {"x-do": "wait"}


class Bench:
    """The flows of one HTTP trigger, which a test edits."""

    def __init__(self, flows: Flows, gateway: Gateway, client: aiohttp.ClientSession, function: Scripted) -> None:
        self.flows, self.gateway, self.client, self.function = flows, gateway, client, function
        self.secrets = {"token": "one"}
        self.may_end = asyncio.Event()  # the calls that wait
        self.generation = 0

    def secret(self, namespace: str, reference: SecretRef) -> str:
        if reference.name not in self.secrets:
            raise MissingSecret(f"there is no Secret {reference.name!r}")
        return self.secrets[reference.name]

    async def edit(self, function: str = "f", **spec: Any) -> None:
        self.generation += 1
        resource = TriggerResource(
            "HTTPTrigger", "default", "orders", HTTPTrigger.model_validate({"function": function, **spec}), "uid",
            generation=self.generation, secrets=str(self.secrets),
        )  # fmt: skip
        await self.flows.apply({("uid", function): resource}, 5)

    async def until_connected(self) -> None:
        async with asyncio.timeout(10):
            while not all(running.flow.connected[0] for running in self.flows.of("uid")):
                await asyncio.sleep(0.001)

    async def until_running(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.function.running != count:
                await asyncio.sleep(0.001)

    async def post(self, path: str = "/orders", **options: Any) -> int:
        async with self.client.post(path, **options) as answer:
            await answer.read()
            return answer.status


@asynccontextmanager
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async def decide(call: Call) -> Answer:
        if call.headers.get("x-do") == "wait":
            await it.may_end.wait()
        return 200

    gateway = Gateway()
    await gateway.start("127.0.0.1", 0)
    async with (
        scripted(decide) as function,
        Store.open(tmp_path / "s.db") as store,
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}", connector=aiohttp.TCPConnector(limit=0)) as client,
    ):
        gate = Gate("f", function.url)
        host = LocalHost(
            replica="r", store=store, gateway=gateway, secrets=lambda *found: it.secret(*found), defaults={}
        )
        it = Bench(Flows(host, lambda namespace, name: gate), gateway, client, function)
        try:
            yield it
        finally:
            it.may_end.set()
            await it.flows.stop(5)
            await gate.aclose()
            await gateway.close(0)


async def answers_while(it: Bench, edits: Any, callers: int = 16, **options: Any) -> Counter[int]:
    """The answers that callers get who ask without a pause until `edits` is done."""
    found: Counter[int] = Counter()
    editing = asyncio.create_task(edits)

    async def ask() -> None:
        while not editing.done():
            found[await it.post(**options)] += 1

    await asyncio.gather(*(ask() for _ in range(callers)))
    await editing
    return found


async def test_counters_go_on_after_an_edit_and_while_suspended_and_end_with_the_trigger(tmp_path: Path) -> None:
    """A counter that began anew would hide what grows between two readings: events that are lost, for instance."""
    async with bench(tmp_path) as it:
        await it.edit()
        await it.until_connected()
        for spec in ({"methods": ["POST", "PUT"]}, {"suspend": True}, {}):
            if not it.flows.of("uid")[0].resource.spec.suspend:
                assert await it.post() == 200
            (flow,) = (running.flow for running in it.flows.of("uid"))
            before = flow.reading().counters.delivered
            await it.edit(**spec)
            (running,) = it.flows.of("uid")
            assert running.flow.reading().counters.delivered == before
            assert running.flow.status().counters_since == flow.status().counters_since
            if not running.resource.spec.suspend:
                await it.until_connected()
        assert before == 2
        await it.flows.apply({}, 5)
        await it.edit()
        assert it.flows.of("uid")[0].flow.reading().counters.delivered == 0


async def test_edits_under_load_refuse_no_request(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.edit()
        await it.until_connected()
        slow = asyncio.create_task(it.post(headers=SLOW))
        await it.until_running(1)

        async def edits() -> None:
            for number in range(40):
                await it.edit(delivery={"timeoutSeconds": 20 + number})
                await it.until_connected()
                await asyncio.sleep(0.02)

        found = await answers_while(it, edits())
        assert set(found) == {200}, found
        assert not slow.done(), "the flow that called first has not ended"
        it.may_end.set()
        assert await slow == 200


async def test_edits_of_a_trigger_that_accepts_refuse_no_request_and_lose_no_event(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.edit(answer="accepted")
        await it.until_connected()

        async def edits() -> None:
            for number in range(20):
                await it.edit(answer="accepted", delivery={"timeoutSeconds": 20 + number})
                await it.until_connected()
                await asyncio.sleep(0.02)

        found = await answers_while(it, edits(), data=b"x")
        assert set(found) == {202}, found
        async with asyncio.timeout(20):
            while len({call.headers["ce-id"] for call in it.function.calls}) < found[202]:
                await asyncio.sleep(0.01)


async def test_a_new_path_serves_at_once_while_a_call_at_the_old_one_runs(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.edit(path="/old")
        await it.until_connected()
        slow = asyncio.create_task(it.post("/old", headers=SLOW))
        await it.until_running(1)
        async with asyncio.timeout(5):
            await it.edit(path="/new")
            await it.until_connected()
            assert await it.post("/new") == 200
            assert await it.post("/old") == 404, "the spec that runs does not serve it"
        it.may_end.set()
        assert await slow == 200


async def test_a_body_that_is_under_way_during_the_edit_is_served(tmp_path: Path) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"begin"
        started.set()
        await go_on.wait()
        yield b"end"

    async with bench(tmp_path) as it:
        await it.edit()
        await it.until_connected()
        slow = asyncio.create_task(it.post(data=body()))
        await started.wait()
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            while not next(iter(it.gateway._serving["uid"].values())).requests._reading:
                await asyncio.sleep(0.001)
            await it.edit(methods=["POST", "PUT"])
            await it.until_connected()
            assert await it.post() == 200
        go_on.set()
        assert await slow == 200
        assert it.function.calls[-1].body == b"beginend"


async def test_another_function_is_called_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.edit("f")
        await it.until_connected()
        slow = asyncio.create_task(it.post(headers=SLOW))
        await it.until_running(1)
        await it.edit("g")
        await it.until_connected()
        assert await it.post() == 200
        assert [running.flow.identity.function for running in it.flows.of("uid")] == ["g"]
        assert sorted(running.flow.identity.function for running in it.flows.present()) == ["f", "g"]
        it.may_end.set()
        assert await slow == 200


async def test_a_rotated_secret_refuses_no_caller_with_the_new_token(tmp_path: Path) -> None:
    one, two = ({"authorization": f"Bearer {token}"} for token in ("one", "two"))
    async with bench(tmp_path) as it:
        await it.edit(auth=BEARER)
        await it.until_connected()
        slow = asyncio.create_task(it.post(headers={**one, **SLOW}))
        await it.until_running(1)
        it.secrets["token"] = "two"
        async with asyncio.timeout(5):
            await it.edit(auth=BEARER)
            await it.until_connected()
            assert await it.post(headers=two) == 200
            assert await it.post(headers=one) == 401
        it.may_end.set()
        assert await slow == 200


async def test_a_deleted_secret_ends_the_old_tokens(tmp_path: Path) -> None:
    one = {"authorization": "Bearer one"}
    async with bench(tmp_path) as it:
        await it.edit(auth=BEARER)
        await it.until_connected()
        slow = asyncio.create_task(it.post(headers={**one, **SLOW}))
        await it.until_running(1)
        it.secrets.clear()
        await it.edit(auth=BEARER)
        async with asyncio.timeout(5):
            while it.flows.of("uid")[0].flow.connected[1] != "SecretMissing":
                await asyncio.sleep(0.001)
        it.may_end.set()
        assert await slow == 200
        async with asyncio.timeout(10):
            while len(it.flows.present()) > 1:
                await asyncio.sleep(0.001)
        assert await it.post(headers=one) == 503


async def test_events_of_one_key_stay_in_order_over_an_edit(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        ordered: dict[str, Any] = {"ordering": "key", "keyHeader": "x-key"}
        await it.edit(**ordered)
        await it.until_connected()
        key = {"x-key": "k"}
        first = asyncio.create_task(it.post(headers={**key, **SLOW}, data=b"1"))
        await it.until_running(1)
        await it.edit(**ordered, delivery={"timeoutSeconds": 20})
        await it.until_connected()
        second = asyncio.create_task(it.post(headers=key, data=b"2"))
        async with asyncio.timeout(5):
            while it.flows.held < 2:
                await asyncio.sleep(0.001)
        assert it.function.running == 1
        it.may_end.set()
        assert [await first, await second] == [200, 200]
        assert [call.body for call in it.function.calls] == [b"1", b"2"]


async def test_the_removal_of_a_trigger_waits_for_the_calls_of_its_earlier_specs(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.edit()
        await it.until_connected()
        slow = asyncio.create_task(it.post(headers=SLOW))
        await it.until_running(1)
        await it.edit(path="/new")
        await it.until_connected()
        removing = asyncio.create_task(it.flows.apply({}, 5, uid="uid"))
        await asyncio.sleep(0)
        assert not removing.done()
        it.may_end.set()
        await removing
        assert await slow == 200
        assert it.flows.present() == []


async def test_an_edit_that_changes_nothing_that_runs_keeps_the_flow_and_counts_as_seen(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.edit()
        (before,) = it.flows.of("uid")
        await it.edit(methods=["POST"])
        (after,) = it.flows.of("uid")
        assert after.flow is before.flow
        assert after.resource.generation == 2


async def test_a_more_specific_path_refuses_no_request_that_the_former_path_matches(tmp_path: Path) -> None:
    def hold(path: str) -> None:
        route = HTTPTrigger.model_validate({"function": "f", "path": path}).route("orders")
        assert route is not None
        it.gateway.hold("uid", [route])

    async with bench(tmp_path) as it:
        hold("/{rest...}")
        await it.edit(path="/{rest...}")
        await it.until_connected()

        async def edits() -> None:
            for path in ("/orders", "/{name}", "/orders", "/{rest...}") * 5:
                hold(path)
                await asyncio.sleep(0.01)
                await it.edit(path=path)
                await it.until_connected()
                await asyncio.sleep(0.01)

        found = await answers_while(it, edits())
        assert set(found) == {200}, found


class SilentTrigger(TriggerSource):
    """A plugin's source that serves a route and reports nothing."""

    sharing: ClassVar[Sharing] = "partitioned"
    fan_out: ClassVar[bool] = False
    path: str = "/orders"

    def route(self, name: str) -> Route | None:
        return Route(self.path)

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        async with context.requests(Route(self.path)) as requests:
            while not context.stopping.is_set():
                for request in await requests.next(context.room, 0.2):
                    request.answer(200)
                yield []


async def test_a_source_that_reports_nothing_takes_over_when_it_serves(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        for generation, path in enumerate(("/orders", "/new")):
            spec = SilentTrigger.model_validate({"function": "f", "path": path})
            resource = TriggerResource("SilentTrigger", "default", "orders", spec, "uid", generation=generation)
            await it.flows.apply({("uid", "f"): resource}, 5)
            async with asyncio.timeout(10):
                while await it.post(path) != 200 or len(it.flows.present()) > 1:
                    await asyncio.sleep(0.01)
        assert await it.post("/orders") == 404
