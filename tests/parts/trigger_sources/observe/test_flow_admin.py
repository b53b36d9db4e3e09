"""The admin API of a process that has only flows, such as a trigger controller."""

import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

from servers.flow_admin import BASE, admin
from servers.scripted import Answer, Call, scripted


async def test_the_status_has_the_flows_and_the_triggers_that_run_elsewhere(tmp_path: Path) -> None:
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
        assert await it.post(f"{BASE}/dead-letters/purge", {"identities": [second, "nowhere"]}) == {
            "purged": 1,
            "missing": ["nowhere"],
        }
        assert await it.get(f"{BASE}/dead-letters") == {"deadLetters": []}


async def test_a_parked_lane_is_listed_and_released(tmp_path: Path) -> None:
    answers = iter([422, 200])

    async def decide(call: Call) -> Answer:
        return next(answers)

    async with scripted(decide) as function, admin(tmp_path, function.url, delivery={"onFailure": "park"}) as it:
        it.broker.publish(key="a")
        await it.until(f"{BASE}/lanes", lambda found: [lane["state"] for lane in found["lanes"]] == ["parked"])
        status, text = await it.ask("POST", f"{BASE}/lanes/skip", {"key": None})
        assert (status, "the name of a lane is needed, or all: true" in text) == (400, True)
        assert await it.post(f"{BASE}/lanes/skip", {"lane": "b"}) == {"lanes": 0}
        assert await it.post(f"{BASE}/lanes/release", {"lane": "a"}) == {"lanes": 1}
        await it.until("/v1/status", lambda found: found["triggers"][0]["counters"]["delivered"] == 1)
        assert await it.post(f"{BASE}/resume", None) == {}


async def test_ask_exchanges_lines_with_the_socket(tmp_path: Path) -> None:
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
    assert "the admin API at" in json.loads(head)["error"]


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
