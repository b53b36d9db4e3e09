"""Edits of a live HTTP trigger, of every kind, each with a request that only the new spec answers so.

A time-out of half a minute is the exception: its request shows that the trigger answers.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from servers.function import Function, function

NAME, SECRET = "orders", "callers"
PATH, LOAD_TOKEN = "/orders/1", "load"
LOAD_BODY = json.dumps({"kind": "load"}).encode()
FIRST_CONCURRENCY = 8
ANSWER_SECONDS = 20.0

# `fail`: so many attempts fail; `barrier`: it answers once so many calls run at the same time
FUNCTION = """
import asyncio

together = {}

async def handler(event, context):
    data = event["data"]
    if context["attempt"] <= data.get("fail", 0):
        raise ValueError("asked to fail")
    if (number := data.get("barrier", 0)):
        waiting, opened = together.setdefault(data["id"], ([], asyncio.Event()))
        waiting.append(1)
        if len(waiting) >= number:
            opened.set()
        await asyncio.wait_for(opened.wait(), 20)
    return {"version": VERSION}
"""

Answer = tuple[int, dict[str, Any]]  # status and body


@dataclass(frozen=True)
class Edit:
    """A merge patch of the trigger's spec, or else the new content of the Secret. `requests` are sent at once."""

    kind: str
    holds: Callable[[Answer], bool]  # of each answer, with the new spec
    spec: dict[str, Any] = field(default_factory=dict)
    secret: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = PATH
    token: str = LOAD_TOKEN
    body: dict[str, Any] = field(default_factory=dict)
    requests: int = 1

    async def is_served(self, session: aiohttp.ClientSession, gateway: str) -> bool:
        """Whether this gateway answers as the new spec does."""
        return all(self.holds(answer) for answer in await self.answers(session, gateway))

    async def answers(self, session: aiohttp.ClientSession, gateway: str) -> list[Answer]:
        body = {"kind": "load", "id": f"{gateway} {id(self)}", **self.body}

        async def ask() -> Answer:
            async with session.request(
                self.method, f"{gateway}{self.path}", json=body, headers={"authorization": f"Bearer {self.token}"}
            ) as answer:
                found = await answer.read()
                return answer.status, json.loads(found) if answer.status == 200 else {}

        return await asyncio.gather(*(ask() for _ in range(self.requests)))


def secret_of(token: str, name: str = SECRET) -> dict[str, Any]:
    head = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": head, "stringData": {"load": LOAD_TOKEN, "next": token}}


def first_spec(url: str) -> dict[str, Any]:
    return {
        "url": url,
        "path": "/orders/{id}",
        "filter": 'data.kind in ["load"]',
        "concurrency": FIRST_CONCURRENCY,
        "delivery": {"attempts": 2, "backoffSeconds": 0.01, "backoffMaxSeconds": 0.01},
        "auth": {"bearer": {"tokens": [{"name": SECRET, "key": "load"}, {"name": SECRET, "key": "next"}]}},
    }


@dataclass
class Versions:
    """The processes of the function: one for each version of its code."""

    stack: AsyncExitStack
    running: list[Function] = field(default_factory=list)

    async def start(self) -> Function:
        source = f"VERSION = {len(self.running)}\n{FUNCTION}"
        found = function(source, FUNC_CONCURRENCY="256")  # the barriers of all replicas are together in it
        self.running.append(await self.stack.enter_async_context(found))
        return self.running[-1]

    async def stop_former(self) -> None:
        """SIGTERM for the last but one, as a rollout does once the new version serves."""
        await self.running[-2].stop()


@asynccontextmanager
async def versions() -> AsyncIterator[Versions]:
    async with AsyncExitStack() as stack:
        yield Versions(stack)


KINDS = ("path", "methods", "filter", "retry", "concurrency", "timeout", "secret", "code")


def edits() -> Iterator[Edit]:
    """Edits without end, of every kind in turn. The url of the new code is missing in `code`."""
    for turn in itertools.count(1):
        wide = turn % 2 == 1
        yield Edit(
            "path",
            _has_status(200) if wide else _has_other_status(200),  # 503 until the status has the new claims, then 404
            spec={"path": "/orders/{rest...}" if wide else "/orders/{id}"},
            path="/orders/1/2",
        )
        method = ("PUT", "PATCH", "DELETE")[turn % 3]
        yield Edit("methods", _has_status(200), spec={"methods": ["POST", method]}, method=method)
        word = f"k{turn}"
        yield Edit("filter", _has_status(200), spec={"filter": f'data.kind in ["load", "{word}"]'}, body={"kind": word})
        yield Edit("retry", _has_status(200), spec={"delivery": {"attempts": turn + 2}}, body={"fail": turn + 1})
        most = FIRST_CONCURRENCY + 2 * turn
        yield Edit(
            "concurrency",
            _has_status(200),
            spec={"concurrency": most},
            body={"barrier": most - 1},
            requests=most - 1,
        )
        yield Edit("timeout", _has_status(200), spec={"delivery": {"timeoutSeconds": 30 + turn}})
        token = f"next{turn}"
        yield Edit("secret", _has_status(200), secret={"load": LOAD_TOKEN, "next": token}, token=token)
        yield Edit("code", _has_version(turn))


def is_ready(trigger: dict[str, Any]) -> bool:
    """As `kubectl wait --for=condition=Ready` reads it."""
    status = trigger.get("status", {})
    ready = next((found for found in status.get("conditions", ()) if found["type"] == "Ready"), None)
    if ready is None:
        return False
    observed = ready.get("observedGeneration", status.get("observedGeneration", 0))
    return bool(observed >= trigger["metadata"]["generation"] and ready["status"] == "True")


def _has_status(status: int) -> Callable[[Answer], bool]:
    return lambda answer: answer[0] == status


def _has_other_status(status: int) -> Callable[[Answer], bool]:
    return lambda answer: answer[0] != status


def _has_version(version: int) -> Callable[[Answer], bool]:
    return lambda answer: answer[1].get("version") == version
