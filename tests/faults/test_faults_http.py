"""An event that was answered with 202 is delivered even if everything is killed. An event that cannot be delivered now
is refused at once.
"""

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest
from servers.fabric import fabric, manifest
from servers.function import function
from servers.ledger import Books, Verdict, judge
from servers.ports import free_port
from servers.recorded_calls import FUNCTION, entries


@pytest.mark.timeout(180)
async def test_accepted_requests_survive_kill_9_of_everything(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def verdict() -> Verdict:
        """A request that was not answered with 202 may have been accepted."""
        delivered = [entry.number for entry in entries(ledger)]
        return judge(Books(posted, delivered, in_doubt=posted.keys() - accepted))

    accepted: set[int] = set()
    posted: dict[int, None] = {}
    async with function(FUNCTION, LEDGER=str(ledger), FAIL_SHARE="0.05") as target:
        port = free_port()
        trigger = manifest(
            "HTTPTrigger", "orders", url=target.url, path="/orders", answer="accepted", concurrency=32,
            delivery={"backoffSeconds": 0.05, "backoffMaxSeconds": 0.5},
        )  # fmt: skip
        async with fabric(tmp_path / "m", tmp_path / "s", http_port=port, manifests=[trigger]) as it:
            numbers = iter(range(10**6))
            stop = asyncio.Event()

            async def post(session: aiohttp.ClientSession) -> None:
                while not stop.is_set():
                    number = next(numbers)
                    posted[number] = None  # in no lane: each has a key of its own
                    try:
                        async with session.post(
                            f"http://127.0.0.1:{port}/orders", json={"key": f"k{number}", "n": number}
                        ) as answer:
                            if answer.status == 202:
                                accepted.add(number)
                    except (aiohttp.ClientError, OSError):
                        await asyncio.sleep(0.02)

            async with aiohttp.ClientSession() as session:
                posting = [asyncio.create_task(post(session)) for _ in range(8)]
                for round_ in range(4):
                    goal = len(accepted) + 150
                    async with asyncio.timeout(30):
                        while len(accepted) < goal:
                            await asyncio.sleep(0.01)
                    if round_ == 1:
                        await target.kill()
                    await it.kill()
                    if round_ == 1:
                        await target.start()
                    await it.start()
                stop.set()
                await asyncio.gather(*posting)
            async with asyncio.timeout(60):
                while verdict().missing:
                    await asyncio.sleep(0.1)
    found = verdict()
    print(f"\n{found}; accepted {len(accepted)}, 5 kills")
    assert (found.missing, found.unsent) == ((), ()), "no accepted request is lost"


async def test_a_request_to_a_function_that_is_down_is_refused_at_once_with_retry_after(
    tmp_path: Path,
) -> None:
    dead = free_port()
    port = free_port()
    trigger = manifest("HTTPTrigger", "orders", url=f"http://127.0.0.1:{dead}/", path="/orders")
    async with (
        fabric(tmp_path / "m", tmp_path / "s", http_port=port, manifests=[trigger]),
        aiohttp.ClientSession() as session,
    ):
        for _ in range(20):
            started = time.monotonic()
            async with session.post(f"http://127.0.0.1:{port}/orders", json={}) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) >= 1
            assert time.monotonic() - started < 5
