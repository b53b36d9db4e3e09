"""The steady work of the other tenants, and how long it takes: calls, events and edits."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
from servers.scripted import Answer, Call

from benchmarks.neighbours.verdict import Times
from controllers.cluster.api import Api

_EVERY_SECONDS = 0.5  # of each tenant
_LATE_SECONDS = 30.0  # a probe that takes longer has failed


class Probes:
    """Of all tenants together. `decide` answers for their functions."""

    def __init__(self, api: Api, client: Any, gateway_port: int, teams: Sequence[str]) -> None:
        self.problems: list[str] = []
        self._api = api
        self._client = client  # of NATS
        self._gateway = f"http://127.0.0.1:{gateway_port}"
        self._teams = teams
        self._coming: dict[str, asyncio.Future[None]] = {}
        self._numbers = iter(range(1_000_000_000))

    async def decide(self, call: Call) -> Answer:
        if (arrived := self._coming.pop(call.body.decode(), None)) is not None and not arrived.done():
            arrived.set_result(None)
        return 200

    async def run(self, seconds: float, times: Times) -> None:
        """Adds the times of the probes that begin within these seconds, and returns once all of them are over."""
        until = time.monotonic() + seconds
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for team in self._teams:
                group.create_task(self._steadily(until, times.setdefault("HTTP call", []), self._call, session, team))
                group.create_task(self._steadily(until, times.setdefault("NATS event", []), self._event, team))
            group.create_task(self._one_by_one(until, times.setdefault("edit of a Function", []), self._edit_function))
            group.create_task(
                self._one_by_one(until, times.setdefault("edit of an HTTP trigger", []), self._edit_route, session)
            )

    async def _steadily(
        self, until: float, times: list[float], act: Callable[..., Awaitable[None]], *arguments: object
    ) -> None:
        """Begins a probe at each tick, and waits for no earlier one."""
        await asyncio.sleep(random.random() * _EVERY_SECONDS)
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until:
                group.create_task(self._timed(times, act, *arguments))
                await asyncio.sleep(_EVERY_SECONDS)

    async def _one_by_one(
        self, until: float, times: list[float], act: Callable[..., Awaitable[None]], *arguments: object
    ) -> None:
        number = 0
        while time.monotonic() < until:
            await self._timed(times, act, *arguments, self._teams[number % len(self._teams)])
            number += 1
            await asyncio.sleep(0.05)

    async def _timed(self, times: list[float], act: Callable[..., Awaitable[None]], *arguments: object) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_LATE_SECONDS):
                await act(*arguments)
        except Exception as error:  # noqa: BLE001  it is a result
            self.problems.append(f"{act.__name__.strip('_')}: {error!r}")
        times.append(time.monotonic() - began)

    async def _call(self, session: aiohttp.ClientSession, team: str) -> None:
        async with session.post(f"{self._gateway}/{team}/calls", data=b"{}") as answer:
            await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}")

    async def _event(self, team: str) -> None:
        name = json.dumps([team, next(self._numbers)])
        arrived = self._coming[name] = asyncio.get_running_loop().create_future()
        await self._client.publish(f"{team}.events", name.encode())
        await arrived

    async def _edit_function(self, team: str) -> None:
        """Until the Deployment has the new variable."""
        value = str(time.time_ns())
        await self._patch(team, "functions", "f", {"env": [{"name": "EDITED", "value": value}]})
        path = f"/apis/apps/v1/namespaces/{team}/deployments/f"
        while True:
            found = await self._api.request("GET", path)
            variables = found["spec"]["template"]["spec"]["containers"][0]["env"]
            if any(item.get("value") == value for item in variables):
                return
            await asyncio.sleep(0.02)

    async def _edit_route(self, session: aiohttp.ClientSession, team: str) -> None:
        """Until the gateway serves the new path."""
        path = f"/{team}/edited/{time.time_ns()}"
        await self._patch(team, "httptriggers", "edited", {"path": path})
        while True:
            async with session.post(f"{self._gateway}{path}", data=b"{}") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.02)

    async def _patch(self, team: str, plural: str, name: str, spec: dict[str, Any]) -> None:
        path = f"/apis/kubeirq.dev/v1/namespaces/{team}/{plural}/{name}"
        await self._api.request("PATCH", path, body={"spec": spec}, content_type="application/merge-patch+json")
