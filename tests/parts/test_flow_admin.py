"""The admin API of a process that has flows and nothing else: a trigger controller's."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from servers.broker import BROKERS, Broker, ListTrigger
from servers.scripted import Answer, Call, scripted

from trigger_sources.admin import FlowAdmin, served
from trigger_sources.flows import Flows, TriggerResource
from trigger_sources.gate import Gate
from trigger_sources.gateway import Gateway
from trigger_sources.host import LocalHost
from trigger_sources.source import MissingSecret
from trigger_sources.spec import SecretRef
from trigger_sources.store import Store

BASE = "/v1/triggers/default/ListTrigger/t"


def no_secrets(namespace: str, reference: SecretRef) -> str:
    raise MissingSecret(f"no secret {reference.name}")


class Served:
    def __init__(self, broker: Broker, socket: Path) -> None:
        self.broker, self.socket = broker, socket

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        connector = aiohttp.UnixConnector(path=str(self.socket))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.request(method, f"http://admin{path}", json=body) as answer:
                return answer.status, await answer.text()

    async def get(self, path: str) -> Any:
        status, text = await self.ask("GET", path)
        assert status == 200, text
        return json.loads(text)

    async def post(self, path: str, body: Any) -> Any:
        status, text = await self.ask("POST", path, body)
        assert status == 200, text
        return json.loads(text.splitlines()[-1])

    async def until(self, path: str, holds: Callable[[Any], Any]) -> Any:
        async with asyncio.timeout(20):
            while not holds(found := await self.get(path)):
                await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def admin(tmp_path: Path, url: str, **spec: Any) -> AsyncIterator[Served]:
    """One trigger that runs and one that does not, served."""
    broker = BROKERS["it"] = Broker()
    here, elsewhere = (
        TriggerResource(
            "ListTrigger", "default", name,
            ListTrigger.model_validate({"broker": "it", "function": "f", "ordering": "key", **spec}), f"uid-{name}",
        )
        for name in ("t", "elsewhere")
    )  # fmt: skip
    gate = Gate("f", url)
    async with Store.open(tmp_path / "state.db") as store:
        host = LocalHost(replica="r", store=store, gateway=Gateway(), secrets=no_secrets, defaults={})
        flows = Flows(host, lambda namespace, name: gate)
        await flows.apply({(here.uid, "f"): here}, 1)
        api = FlowAdmin(
            flows,
            lambda: {trigger.uid: trigger for trigger in (here, elsewhere)},
            replica="kafka-1",
            idle=lambda _: ("NotHere", "another replica runs it"),
        )
        try:
            async with served(api.application(), tmp_path / "admin.sock"):
                yield Served(broker, tmp_path / "admin.sock")
        finally:
            await flows.stop(1)
            await gate.aclose()


async def test_it_says_how_its_flows_are_and_which_triggers_run_elsewhere(tmp_path: Path) -> None:
    async with scripted() as function, admin(tmp_path, function.url) as it:
        it.broker.publish()
        status = await it.until("/v1/status", lambda found: found["triggers"][0]["counters"]["delivered"] == 1)
        assert status["replica"] == "kafka-1"
        here, elsewhere = status["triggers"]
        assert (here["name"], here["function"], here["lastAnswer"]["status"]) == ("t", "f", 200)
        assert (elsewhere["name"], elsewhere["function"]) == ("elsewhere", None)
        assert elsewhere["conditions"][0]["reason"] == "NotHere"
        assert it.socket.stat().st_mode & 0o777 == 0o600
        status_code, text = await it.ask("GET", "/v1/triggers/default/ListTrigger/tt/lanes")
        assert (status_code, "known triggers: elsewhere, t" in text) == (404, True)


async def test_dead_letters_are_listed_redriven_and_purged(tmp_path: Path) -> None:
    answers = iter([422, 422, 200])

    async def decide(call: Call) -> Answer:
        return next(answers)

    async with scripted(decide) as function, admin(tmp_path, function.url) as it:
        it.broker.publish(b'{"n": 1}')
        it.broker.publish(b'{"n": 2}')
        letters = await it.until(f"{BASE}/dead-letters", lambda found: len(found["deadLetters"]) == 2)
        first, second = (letter["identity"] for letter in letters["deadLetters"])
        shown = await it.get(f"{BASE}/dead-letters/show?identity={first}")
        assert shown["data"] == base64.b64encode(b'{"n": 1}').decode()
        assert await it.post(f"{BASE}/dead-letters/redrive", {"identities": [first]}) == {
            "done": True,
            "delivered": 1,
            "failed": 0,
        }
        assert await it.post(f"{BASE}/dead-letters/purge", {"identities": [second]}) == {"purged": 1}
        assert await it.get(f"{BASE}/dead-letters") == {"deadLetters": []}


async def test_a_parked_lane_is_listed_and_released(tmp_path: Path) -> None:
    answers = iter([422, 200])

    async def decide(call: Call) -> Answer:
        return next(answers)

    async with scripted(decide) as function, admin(tmp_path, function.url, delivery={"onFailure": "park"}) as it:
        it.broker.publish(key="a")
        await it.until(f"{BASE}/lanes", lambda found: [lane["state"] for lane in found["lanes"]] == ["parked"])
        assert await it.post(f"{BASE}/lanes/release", {"key": base64.b64encode(b"a").decode()}) == {"lanes": 1}
        await it.until("/v1/status", lambda found: found["triggers"][0]["counters"]["delivered"] == 1)
        assert await it.post(f"{BASE}/resume", None) == {}


async def test_ask_speaks_to_the_socket_line_by_line(tmp_path: Path) -> None:
    async with scripted() as function, admin(tmp_path, function.url) as it:
        it.broker.publish()
        await it.until("/v1/status", lambda found: found["triggers"][0]["counters"]["delivered"] == 1)
        head, *chunks, end = await ask(it.socket, {"method": "GET", "path": "/v1/status"})
        assert (json.loads(head)["status"], end) == (200, ".")
        assert json.loads(b"".join(map(base64.b64decode, chunks)))["replica"] == "kafka-1"
        body = base64.b64encode(b'{"identities": null}').decode()
        request = {"method": "POST", "path": f"{BASE}/dead-letters/redrive", "query": {"a": "b c"}, "body": body}
        head, *chunks, end = await ask(it.socket, request)
        assert json.loads(b"".join(map(base64.b64decode, chunks)))["done"] is True
        head, *chunks, end = await ask(it.socket, {"method": "GET", "path": "/nowhere"})
        assert (json.loads(head)["status"], end) == (404, ".")
    head, end = await ask(it.socket, {"method": "GET", "path": "/v1/status"})
    assert "no admin API answers at" in json.loads(head)["error"]


async def ask(socket: Path, request: dict[str, Any]) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controllers.ask",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "KUBEIRQ_ADMIN_SOCKET": str(socket)},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")  # and stays open, as an exec's does
    found = (await process.stdout.read()).decode().splitlines()
    assert await process.wait() == 0
    return found
