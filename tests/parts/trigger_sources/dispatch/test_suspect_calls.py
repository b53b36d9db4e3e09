"""The order of a suspect event's call over real sockets: connected, mark durable, request sent, mark removed.

A process may die between any two steps. The mark must not stand before there is a connection, and always stand when the
function has the request.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from servers.broker import BROKERS, Broker, ListTrigger
from servers.ports import free_port

from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.dispatch.suspects import Suspects
from trigger_sources.http.gateway import Gateway
from trigger_sources.source import MissingSecret
from trigger_sources.spec import SecretRef
from trigger_sources.stores.sqlite import Store
from trigger_sources.testing import MemoryState

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class Journal(MemoryState):
    """A durable state that takes a while, and notes what happens in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    async def put(self, key: str, value: bytes) -> None:
        self.steps.append("marking")
        await asyncio.sleep(0.01)
        await super().put(key, value)
        self.steps.append("marked")

    async def delete(self, key: str) -> None:
        await asyncio.sleep(0.01)
        await super().delete(key)
        self.steps.append("unmarked")


@asynccontextmanager
async def function(steps: list[str], answers: list[bytes | None]) -> AsyncIterator[int]:
    """Gives these answers, one a request; None: closes the connection. Then it answers no more. Yields its port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        steps.append("connected")
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                steps.append("request")
                answer = answers.pop(0) if answers else await reader.read() or None
                if answer is None:
                    return
                writer.write(answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def flow(url: str, journal: Journal, tmp_path: Path) -> AsyncIterator[Flow]:
    """Of an event that was handed out often."""

    def no_secrets(namespace: str, reference: SecretRef) -> str:
        raise MissingSecret(reference.name)

    BROKERS["it"] = broker = Broker()
    broker.handed_out["1"] = 6
    fast = {"backoffSeconds": 0.01, "backoffMaxSeconds": 0.05, "timeoutSeconds": 0.3}
    trigger = ListTrigger.model_validate({"broker": "it", "function": "f", "delivery": fast})
    gate = Gate("f", url)
    async with Store.open(tmp_path / "state.db") as store:
        host = LocalHost(replica="r", store=store, gateway=Gateway(), secrets=no_secrets, defaults={})
        found = Flow(
            trigger, kind="ListTrigger", namespace="default", name="t", uid="default/ListTrigger/t",
            function="f", gate=gate, host=host, gate_of=lambda name: gate,
        )  # fmt: skip
        found.dispatcher._suspects = Suspects(journal)
        runner = asyncio.create_task(found.run())
        try:
            broker.publish(b"")
            yield found
        finally:
            await found.stop(0)
            await asyncio.gather(runner, return_exceptions=True)
            await gate.aclose()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not happened():
            await asyncio.sleep(0.005)


def at_each_step(steps: list[str]) -> None:
    """The process may die after any step."""
    mark = "no"
    connections = 0
    for step in steps:
        if step == "connected":
            connections += 1
        elif step == "marking":
            assert connections, steps
            mark = "may stand"
        elif step == "marked":
            mark = "stands"
        elif step == "unmarked":
            assert mark == "stands", steps
            mark, connections = "no", 0
        else:
            assert mark == "stands", steps
    assert mark == "no", steps


@pytest.mark.parametrize(
    "answers",
    [[OK], [BUSY, OK], [None, OK], [b"nonsense\r\n\r\n", BUSY, None, OK], [BUSY, BUSY, BUSY, OK]],
    ids=["delivered", "fails once", "loses the connection", "everything", "fails often"],
)
async def test_the_mark_stands_exactly_while_the_function_has_the_request(
    tmp_path: Path, answers: list[bytes | None]
) -> None:
    journal = Journal()
    calls = len(answers)
    async with function(journal.steps, answers) as port, flow(f"http://127.0.0.1:{port}/", journal, tmp_path) as found:
        await until(lambda: found.dispatcher.counters.delivered == 1)
    assert journal.steps == ["connected", "marking", "marked", "request", "unmarked"] * calls
    at_each_step(journal.steps)


async def test_a_call_that_is_cut_or_takes_too_long_leaves_no_mark(tmp_path: Path) -> None:
    journal = Journal()
    async with function(journal.steps, []) as port, flow(f"http://127.0.0.1:{port}/", journal, tmp_path) as found:
        await until(lambda: found.dispatcher.counters.retried >= 1)  # timed out
        await until(lambda: journal.steps.count("request") == 2)
    at_each_step(journal.steps)
    assert not journal.values


@pytest.mark.parametrize("how", ["refused", "hangs"])
async def test_no_mark_stands_while_there_is_no_connection(tmp_path: Path, how: str) -> None:
    """A process that dies now has called nothing."""
    journal = Journal()
    async with function(journal.steps, []) as port:
        # The function never answers the beginning of TLS
        url = f"https://127.0.0.1:{port}/" if how == "hangs" else f"http://127.0.0.1:{free_port()}/"
        async with flow(url, journal, tmp_path) as found:
            if how == "hangs":
                await until(lambda: "connected" in journal.steps)
            else:
                await until(lambda: found.dispatcher.last_error != "")
            assert "marking" not in journal.steps
            assert not journal.values


async def test_a_connection_that_is_closed_while_the_mark_is_written_costs_no_attempt(tmp_path: Path) -> None:
    journal = Journal()
    connections = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await until(lambda: "marking" in journal.steps)
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
        writer.close()

    flows: list[Flow] = []
    put = journal.put

    async def put_until_closed(key: str, value: bytes) -> None:
        await put(key, value)
        if connections == 1:
            await until(lambda: not flows[0].dispatcher._gate.endpoint._connections)

    journal.put = put_until_closed  # type: ignore[method-assign]
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        async with flow(url, journal, tmp_path) as found:
            flows.append(found)
            await until(lambda: found.dispatcher.counters.delivered == 1)
            assert found.dispatcher.counters.retried == 0
    finally:
        server.close()
    assert not journal.values
