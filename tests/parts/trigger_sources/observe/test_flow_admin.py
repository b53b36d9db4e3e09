"""The admin API of a process that has only flows, such as a trigger controller."""

import asyncio
import base64
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from servers.flow_admin import BASE, admin
from servers.scripted import Answer, Call, scripted


async def test_the_status_has_the_flows_and_the_triggers_that_run_elsewhere(tmp_path: Path) -> None:
    started = time.time()
    async with scripted() as function, admin(tmp_path, function.url) as it:
        it.broker.publish()
        status = await it.until("/v1/status", lambda found: found["triggers"][0]["counters"]["delivered"] == 1)
        assert status["replica"] == "kafka-1"
        here, elsewhere = status["triggers"]
        assert (here["name"], here["function"], here["lastAnswer"]["status"]) == ("t", "f", 200)
        assert (elsewhere["name"], elsewhere["function"]) == ("elsewhere", None)
        assert started <= here["countersSince"] <= here["conditions"][0]["since"] <= time.time()
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
            "unreadable": [],
        }
        answer = await it.post(f"{BASE}/dead-letters/purge", {"identities": [second, "nowhere"]})
        assert answer == {"purged": 1, "missing": ["nowhere"], "unreadable": []}
        assert await it.get(f"{BASE}/dead-letters") == {"deadLetters": [], "unreadable": []}


async def refuse_or_take(call: Call) -> Answer:
    return 422 if call.body == b"bad" else 200


async def test_dead_letters_of_a_former_function_are_listed_and_redriven_to_the_present_one(tmp_path: Path) -> None:
    async with scripted(refuse_or_take) as function, admin(tmp_path, function.url) as it:
        for _ in range(2):
            it.broker.publish(b"bad")
        before = await it.until(f"{BASE}/dead-letters", lambda found: len(found["deadLetters"]) == 2)
        await it.calls("g")
        listed = await it.until_listed(lambda found: found["deadLetters"])
        assert listed == before
        first, second = (letter["identity"] for letter in listed["deadLetters"])
        assert first.startswith("f/")
        assert (await it.get(f"{BASE}/dead-letters/show?identity={first}"))["function"] == "f"
        answer = await it.post(f"{BASE}/dead-letters/redrive", {"identities": [first]})
        assert (answer["delivered"], answer["failed"]) == (0, 1)
        listed = await it.get(f"{BASE}/dead-letters")
        replaced = first.replace("f/", "g/")
        assert {letter["identity"] for letter in listed["deadLetters"]} == {replaced, second}, "it failed at g now"
        assert (await it.get("/v1/status"))["triggers"][0]["deadLetters"] == 1
        assert (await it.post(f"{BASE}/dead-letters/purge", {"identities": [second]}))["purged"] == 1
        assert (await it.get("/v1/status"))["triggers"][0]["deadLetters"] == 1


async def test_a_former_function_whose_place_nobody_has_keeps_its_dead_letters_until_it_is_back(tmp_path: Path) -> None:
    answers = iter([422, 200])

    async def decide(call: Call) -> Answer:
        return next(answers)

    async with scripted(decide) as function, admin(tmp_path, function.url) as it:
        it.broker.publish()
        await it.until(f"{BASE}/dead-letters", lambda found: found["deadLetters"])
        await it.calls("g", "h")
        await it.until_listed(lambda found: found["deadLetters"])
        _, text = await it.ask("POST", f"{BASE}/dead-letters/redrive", {})
        line, end = map(json.loads, text.splitlines())
        assert (line["outcome"], end["delivered"], end["failed"]) == ("returned", 0, 1)
        assert "f is no function of the trigger any more, and it is not clear which of g, h" in line["reason"]
        await it.calls("f", "g")
        await it.until_listed(lambda found: found["deadLetters"])
        answer = await it.post(f"{BASE}/dead-letters/redrive", {})
        assert (answer["delivered"], answer["failed"]) == (1, 0)


async def test_dead_letters_without_a_function_are_out_of_reach_and_not_none(tmp_path: Path) -> None:
    async with scripted() as function, admin(tmp_path, function.url) as it:
        await it.calls()
        for path, method in (("", "GET"), ("/redrive", "POST"), ("/purge", "POST")):
            status, text = await it.ask(method, f"{BASE}/dead-letters{path}", {})
            assert (status, "out of reach" in text) == (409, True), text


async def test_a_dead_letter_that_cannot_be_read_is_named_and_the_others_are_listed_and_redriven(
    tmp_path: Path,
) -> None:
    answers = iter([422, 422, 200])

    async def decide(call: Call) -> Answer:
        return next(answers)

    async with scripted(decide) as function, admin(tmp_path, function.url) as it:
        it.broker.publish()
        it.broker.publish()
        listed = await it.until(f"{BASE}/dead-letters", lambda found: len(found["deadLetters"]) == 2)
        await it.store.run(
            lambda connection: connection.execute("UPDATE dead_letters SET metadata = '{}' WHERE number = 1").rowcount
        )
        listed = await it.get(f"{BASE}/dead-letters")
        assert len(listed["deadLetters"]) == 1
        (unreadable,) = listed["unreadable"]
        assert "dead letter 1, f/" in unreadable
        answer = await it.post(f"{BASE}/dead-letters/redrive", {})
        assert (answer["delivered"], answer["failed"], answer["unreadable"]) == (1, 0, [unreadable])
        answer = await it.post(f"{BASE}/dead-letters/purge", {})
        assert answer == {"purged": 0, "missing": [], "unreadable": [unreadable]}


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
