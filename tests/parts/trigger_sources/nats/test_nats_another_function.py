"""A JetStream trigger that gets another function goes on with the consumer of the former one. On a real NATS server."""

from pathlib import Path
from typing import Any

import pytest
from servers.nats import nats_server
from servers.nats_source import JetStream, jetstream
from servers.retargeting import bench, until

from trigger_sources.nats import NATSTrigger

PATIENT = {"backoffSeconds": 3_600, "backoffMaxSeconds": 3_600}


async def publish(js: JetStream, first: int, last: int) -> None:
    for number in range(first, last):
        await js.connection.jetstream().publish("s.1", b"%d" % number)


async def names(js: JetStream) -> list[str]:
    return sorted(found["name"] for found in (await js.api("CONSUMER.LIST.S"))["consumers"] or ())


@pytest.mark.parametrize(
    ("retention", "start"),
    [("limits", "all"), ("limits", "new"), ("workqueue", "all"), ("interest", "all"), ("interest", "new")],
)
async def test_another_function_gets_what_waited_and_nothing_again(tmp_path: Path, retention: str, start: str) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"], retention=retention)
        spec: dict[str, Any] = {"servers": [server.url], "subject": "s.>", "start": start, "delivery": PATIENT}
        async with bench(tmp_path, NATSTrigger, **spec) as it:
            await it.target("a")
            await it.connected()
            it.failing.add("a")
            await publish(js, 0, 1)
            await until(lambda: len(it.bodies("a")) == 1)
            it.failing.clear()
            await publish(js, 1, 10)
            await until(lambda: len(it.bodies("a")) == 10)
            await it.target("b")
            await publish(js, 10, 15)
            await it.delivered("b", [0, *range(10, 15)])
            assert "consumer kubeirq-default-orders-a" in it.flow().status().conditions[1].message
            it.functions["a"].calls.clear()
            await it.restart()
            await publish(js, 15, 20)
            await it.target("a")  # while the fabric was away
            await it.delivered("a", list(range(15, 20)))
            await it.target("c", url=True)
            await publish(js, 20, 25)
            await it.delivered("c", list(range(20, 25)))
            assert await names(js) == ["kubeirq-default-orders-a"]


async def test_replicas_that_change_one_after_the_other_skip_and_repeat_nothing(tmp_path: Path) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        async with bench(tmp_path, NATSTrigger, servers=[server.url], subject="s.>", start="new") as it:
            for replica in (0, 1):
                await it.target("a", replica=replica)
                await it.connected(replica)
            await it.target("b", replica=0)
            await it.connected(0)
            await publish(js, 0, 50)
            await until(lambda: len(it.bodies("a")) + len(it.bodies("b")) >= 50)
            await it.target("b", replica=1)
            await it.connected(1)
            await publish(js, 50, 60)
            await until(lambda: len(it.bodies("a")) + len(it.bodies("b")) >= 60)
            assert sorted(it.bodies("a") + it.bodies("b")) == list(range(60))


async def test_a_former_function_that_comes_back_beside_the_present_one_has_a_consumer_of_its_own(
    tmp_path: Path,
) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        async with bench(tmp_path, NATSTrigger, servers=[server.url], subject="s.>", start="new") as it:
            await it.target("a")
            await it.connected()
            await publish(js, 0, 5)
            await it.delivered("a", list(range(5)))
            await it.target("b")
            await it.connected()
            await it.target("b", "a")
            await it.connected()
            await publish(js, 5, 10)
            await it.delivered("b", list(range(5, 10)))
            await it.delivered("a", list(range(10)))
            await it.target("b")
            await publish(js, 10, 15)
            await it.delivered("b", list(range(5, 15)))
            await it.target("b", "a")
            await it.delivered("a", list(range(15)))
            assert await names(js) == ["kubeirq-default-orders-a", "kubeirq-default-orders-a_2"]
