"""JetStream on disk, a function that sometimes fails, and kills of every process: no message is lost."""

import asyncio
from pathlib import Path
from typing import Any

import nats
import pytest
from servers.fabric import fabric, manifest
from servers.function import function
from servers.ledger import clean
from servers.nats import nats_server, publish
from servers.ports import free_port
from servers.recorded_calls import FUNCTION, Repeatable, account, count

MESSAGES = 20_000
CONCURRENCY = 64


def nats_trigger(url: str, target: str, **more: Any) -> dict[str, Any]:
    spec = {"url": target, "servers": [url], "subject": "orders.>", "concurrency": CONCURRENCY, "durable": "ledger"}
    return manifest(
        "NATSTrigger", "ledger", **{**spec, "delivery": {"backoffSeconds": 0.05, "backoffMaxSeconds": 0.5}, **more}
    )


async def until(happened: Any, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.05)


async def until_acknowledged(url: str, seconds: float = 30) -> None:
    """Waits until the consumer has nothing pending and nothing unacknowledged."""
    connection = await nats.connect(url)
    try:
        async with asyncio.timeout(seconds):
            while True:
                info = await connection.jetstream().consumer_info("orders", "ledger")
                if info.num_pending == 0 and info.num_ack_pending == 0:
                    return
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


@pytest.mark.timeout(180)
async def test_every_message_is_delivered_in_order_by_a_function_that_fails_now_and_then(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with nats_server() as server, function(FUNCTION, LEDGER=str(ledger), FAIL_SHARE="0.05") as target:
        sent = await publish(server.url, "orders", MESSAGES)
        trigger = nats_trigger(server.url, target.url, ordering="key")
        async with fabric(tmp_path / "m", tmp_path / "s", manifests=[trigger]):
            await until(lambda: count(ledger) >= MESSAGES, 120)
            await until_acknowledged(server.url)
        found = account(ledger, sent)
        print(f"\n{found}")
        assert str(found) == clean(MESSAGES), found.breaches


@pytest.mark.timeout(400)
async def test_nothing_is_lost_while_fabric_function_and_server_are_killed_and_a_second_fabric_comes_and_goes(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    kills, repeatable = 0, Repeatable(ledger)
    async with (
        nats_server() as server,
        function(FUNCTION, LEDGER=str(ledger), FAIL_SHARE="0.05", WORKS_SECONDS="0.001") as target,
    ):
        sent = await publish(server.url, "orders", MESSAGES)
        # A killed fabric holds its messages until this time has passed. It is short, so that the test need not wait
        trigger = nats_trigger(server.url, target.url, ackWaitSeconds=5)
        async with fabric(tmp_path / "m", tmp_path / "s", manifests=[trigger], metrics_port=free_port()) as it:

            async def progress(messages: int) -> None:
                goal = count(ledger) + messages
                await until(lambda: count(ledger) >= min(goal, MESSAGES), 90)

            for _ in range(5):
                await progress(1_200)
                async with repeatable.in_kill(it):
                    await it.kill()
                    await target.kill()  # it ends the calls that still run
                kills += 1
                await target.start()
                await it.start()
            for _ in range(3):
                await progress(1_200)
                async with repeatable.in_kill(it):
                    await target.kill()
                kills += 1
                await target.start()
            await progress(1_000)
            await server.kill()  # repeats nothing: the fabric knows what settled
            await server.start()
            await progress(1_000)
            async with fabric(tmp_path / "m", tmp_path / "s2") as second:
                await progress(1_500)
                assert await second.stop() == 0
            await until(lambda: account(ledger, sent).delivered >= MESSAGES, 120)
            await until_acknowledged(server.url)
            counters = (await it.trigger("ledger"))["counters"]
        found = account(ledger, sent, repeatable=repeatable.events)
        print(f"\n{found} of at most {found.repeatable}; {kills} kills, 1 server restart; last fabric: {counters}")
        assert (found.missing, found.unsent) == ((), ()), "in no order: that is its default"
        assert len(found.duplicates) <= found.repeatable, found
        assert counters["deadLettered"] == 0
