"""Flows share the memory of a process: it is bounded, no flow stops another, and one that waits for long says so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from servers.broker import BROKERS, Broker, ListTrigger
from servers.scripted import Answer, Call, scripted

from trigger_sources.budget import Budget
from trigger_sources.dispatch import flow as flow_module
from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http.gateway import Gateway
from trigger_sources.stores.sqlite import Store

KIB, MIB = 1024, 1024 * 1024
SLOWLY = {"backoffSeconds": 3600, "backoffMaxSeconds": 3600, "holdAfter": None}


async def fails_stuck(call: Call) -> Answer:
    return 500 if call.body.startswith(b"stuck") else 200


async def until(happened: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def flows(number: int, memory: Budget, url: str, folder: Path) -> AsyncIterator[Sequence[tuple[Broker, Flow]]]:
    async with Store.open(folder / "state.db") as store, AsyncExitStack() as stack:
        host = LocalHost(
            replica="r", store=store, gateway=Gateway(), secrets=lambda _, key: key.key, defaults={}, memory=memory
        )
        gate = Gate("f", url)
        stack.push_async_callback(gate.aclose)
        found = []
        for index in range(number):
            broker = BROKERS[f"memory-{index}"] = Broker()
            trigger = ListTrigger.model_validate(
                {"broker": f"memory-{index}", "function": "f", "ordering": "key", "delivery": SLOWLY}
            )
            flow = Flow(
                trigger, kind="ListTrigger", namespace="default", name=f"t{index}", uid=f"default/ListTrigger/t{index}",
                function="f", gate=gate, host=host, gate_of=lambda name: gate,
            )  # fmt: skip
            runner = asyncio.create_task(flow.run())
            stack.push_async_callback(_stop, flow, runner)
            found.append((broker, flow))
        await until(lambda: all(flow.dispatcher.room.account is not None for _, flow in found))
        yield found
    assert memory.used == 0, "flows that ended give their memory back"


async def _stop(flow: Flow, runner: "asyncio.Task[None]") -> None:
    await flow.stop(1)
    await runner


async def test_fifty_triggers_with_a_stuck_key_each_let_every_other_key_flow(tmp_path: Path) -> None:
    memory = Budget(64 * MIB)  # a process with a limit of 256 MiB
    async with scripted(fails_stuck) as function, flows(50, memory, function.url, tmp_path) as found:
        for broker, _ in found:
            broker.publish(b"stuck" + bytes(MIB), key="stuck")
        await until(lambda: all(flow.dispatcher.states().get("retrying") for _, flow in found))
        for turn in range(1, 4):
            for broker, _ in found:
                broker.publish(bytes(100 * KIB), key=f"other-{turn}")
            await until(lambda turn=turn: all(len(broker.final()) == turn for broker, _ in found))
            assert memory.used <= memory.limit
        assert [flow.status().conditions[2].reason for _, flow in found] == ["Retrying"] * 50


async def test_a_greedy_trigger_stops_at_its_share_and_says_so_while_its_neighbour_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_module, "_WAITS_SAID_SECONDS", 0.0)
    memory = Budget(8 * MIB)
    async with scripted(fails_stuck) as function, flows(2, memory, function.url, tmp_path) as found:
        (greedy, greedy_flow), (neighbour, neighbour_flow) = found
        for number in range(20):  # one at a time, as a source brings them that reads no more ahead than it may
            greedy.publish(b"stuck" + bytes(MIB // 2), key=f"stuck-{number}")
            await until(
                lambda number=number: (
                    greedy_flow.dispatcher.held == number + 1
                    or greedy_flow.status().conditions[2].reason == "MemoryFull"
                )
            )
        condition = greedy_flow.status().conditions[2]
        assert (condition.status, condition.reason) == ("False", "MemoryFull")
        assert "all triggers of this process may hold 8 MiB" in condition.message
        reading = greedy_flow.reading()
        assert reading.waits_for_memory
        assert 2 * MIB <= reading.held_bytes <= 5 * MIB
        for _ in range(20):
            neighbour.publish(bytes(MIB // 2), key="other")
        await until(lambda: len(neighbour.final()) == 20)
        assert not neighbour_flow.reading().waits_for_memory
        assert greedy.waiting, "they wait at the broker"
        while len(greedy.final()) < 20:
            greedy_flow.skip(None)
            await asyncio.sleep(0.01)


async def test_small_events_count_with_what_the_fabric_keeps_of_them(tmp_path: Path) -> None:
    memory = Budget(MIB)
    async with scripted(fails_stuck) as function, flows(1, memory, function.url, tmp_path) as found:
        ((broker, flow),) = found
        for number in range(1_000):
            broker.publish(b"stuck", key=f"{number}")
        await until(lambda: flow.dispatcher.room.free == 0 and flow.dispatcher.held > 0)
        assert flow.dispatcher.held < 512
        assert memory.used <= MIB
