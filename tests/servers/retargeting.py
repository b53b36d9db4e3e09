"""One trigger whose functions a test exchanges: the flows of one process or of several, and the functions' calls."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from servers.scripted import Answer, Call, Scripted, scripted

from trigger_sources.dispatch.flows import Flows, TriggerResource
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http.gateway import Gateway
from trigger_sources.source import TriggerSource
from trigger_sources.spec import SecretRef
from trigger_sources.stores.sqlite import Store

NAMES = ("a", "b", "c")


class Bench:
    """`flows` are those of each replica, which share the store. A function answers 503 while it is in `failing`."""

    def __init__(self, model: type[TriggerSource], store: Store, stack: AsyncExitStack, **spec: Any) -> None:
        self.model, self.store, self.spec = model, store, spec
        self.functions: dict[str, Scripted] = {}
        self.gates: dict[str, Gate] = {}
        self.failing: set[str] = set()
        self.waiting: dict[str, asyncio.Event] = {}  # functions whose calls wait
        self.replicas = [self._flows("one"), self._flows("two")]
        self._stack = stack

    def _flows(self, replica: str) -> Flows:
        def no_secrets(namespace: str, reference: SecretRef) -> str:
            raise AssertionError(reference)

        host = LocalHost(replica=replica, store=self.store, gateway=Gateway(), secrets=no_secrets, defaults={})
        return Flows(host, lambda namespace, name: self.gates[name])

    async def start(self) -> None:
        for name in NAMES:

            async def decide(call: Call, name: str = name) -> Answer:
                if name in self.waiting:
                    await self.waiting[name].wait()
                return (500, {}, b"") if name in self.failing else 200

            self.functions[name] = await self._stack.enter_async_context(scripted(decide))
            self.gates[name] = Gate(name, self.functions[name].url)
            self._stack.push_async_callback(self.gates[name].aclose)

    async def target(self, *names: str, replica: int = 0, url: bool = False, **spec: Any) -> None:
        """The trigger calls these functions from now on; of several, a selector's."""
        function = self.functions[names[0]]
        target = {"url": function.url} if url else {"function": names[0]}
        if len(names) > 1:
            target = {"functionSelector": {"matchLabels": {"app": "x"}}}  # type: ignore[dict-item]
        found = self.model.model_validate({**self.spec, **target, **spec})
        resource = TriggerResource(self.model.__name__, "default", "orders", found, "uid")
        keys = [f"127.0.0.1:{function.port}"] if url else names
        await self.replicas[replica].apply({("uid", name): resource for name in keys}, 5)

    async def connected(self, replica: int = 0) -> None:
        await until(lambda: all(running.flow.connected[0] for running in self.replicas[replica].of("uid")))

    def flow(self, replica: int = 0) -> Any:
        (running,) = self.replicas[replica].of("uid")
        return running.flow

    def bodies(self, name: str) -> list[int]:
        return [int(call.body) for call in self.functions[name].calls]

    async def delivered(self, name: str, numbers: list[int]) -> None:
        """Returns once the function got these, in any order, and nothing is held. It got nothing else."""
        await until(lambda: len(self.bodies(name)) >= len(numbers) and not any(found.held for found in self.replicas))
        assert sorted(self.bodies(name)) == numbers

    async def restart(self) -> None:
        """All replicas stop, as a process does that ends in good order; new ones run nothing yet."""
        for flows in self.replicas:
            await flows.stop(5)
        self.replicas = [self._flows("one"), self._flows("two")]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not happened():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def bench(tmp_path: Path, model: type[TriggerSource], **spec: Any) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store.open(tmp_path / "store.db"))
        it = Bench(model, store, stack, **spec)
        await it.start()
        try:
            yield it
        finally:
            for event in it.waiting.values():
                event.set()
            await it.restart()
