"""The admin API of a process that has flows and nothing else, over a broker that is a list in the test's hands."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from servers.broker import BROKERS, Broker, ListTrigger

from trigger_sources.dispatch.flows import Flows, TriggerResource
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http.gateway import Gateway
from trigger_sources.observe.admin import FlowAdmin, served
from trigger_sources.source import MissingSecret
from trigger_sources.spec import SecretRef
from trigger_sources.stores.sqlite import Store

BASE = "/v1/triggers/default/ListTrigger/t"


def no_secrets(namespace: str, reference: SecretRef) -> str:
    raise MissingSecret(f"no secret {reference.name}")


class Served:
    def __init__(self, broker: Broker, socket: Path, flows: Flows, store: Store, trigger: TriggerResource) -> None:
        self.broker, self.socket, self.store, self.trigger = broker, socket, store, trigger
        self._flows = flows

    async def calls(self, *functions: str) -> None:
        """Edits the trigger: it has these functions now."""
        await self._flows.apply({(self.trigger.uid, name): self.trigger for name in functions}, 1)

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

    async def until_listed(self, holds: Callable[[Any], Any]) -> Any:
        """The dead letters once the trigger, which was edited, has them again."""
        path = f"{BASE}/dead-letters"
        async with asyncio.timeout(20):
            while True:
                status, text = await self.ask("GET", path)
                if status != 503 and holds(found := json.loads(text)):
                    return found
                await asyncio.sleep(0.01)


@asynccontextmanager
async def admin(tmp_path: Path, url: str, *, replica: str = "kafka-1", **spec: Any) -> AsyncIterator[Served]:
    """One trigger that runs and one that does not, served."""
    broker = BROKERS[replica] = Broker()
    here, elsewhere = (
        TriggerResource(
            "ListTrigger", "default", name,
            ListTrigger.model_validate({"broker": replica, "function": "f", "ordering": "key", **spec}), f"uid-{name}",
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
            replica=replica,
            idle=lambda _: ("NotHere", "another replica runs it"),
        )
        try:
            async with served(api.application(), tmp_path / "admin.sock"):
                found = Served(broker, tmp_path / "admin.sock", flows, store, here)
                # a flow that starts has no dead letters to list yet, and says so
                await found.until(
                    "/v1/status", lambda status: status["triggers"][0]["conditions"][0]["status"] == "True"
                )
                yield found
        finally:
            await flows.stop(1)
            await gate.aclose()
