"""The admin API of a running fabric: the API of its flows, with the functions and brokers of this machine."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from kubeirq.message import MOST_PUBLISHED, Message
from kubeirq.on_machine.fabric import Fabric
from kubeirq.on_machine.publishing import CannotPublish, publish
from trigger_sources.observe.admin import (
    TRIGGER,
    FlowAdmin,
    Refused,
    application_of,
    json_answer,
    process_status,
    served,
)

log = logging.getLogger(__name__)

_CALL_SECONDS = 600


@asynccontextmanager
async def admin_api(fabric: Fabric, socket: Path) -> AsyncIterator[None]:
    """Serves the API while the context is open.

    Replaces an existing socket: the caller has the lock, so the socket is left from a fabric that died.
    """
    async with served(Admin(fabric).application(), socket):
        yield


class Admin(FlowAdmin):
    """The API's handlers."""

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(fabric.running_flows, lambda: fabric.triggers, idle=fabric.idle_reason)
        self._fabric = fabric

    def application(self) -> web.Application:
        return application_of(
            web.get("/v1/status", self.status),
            web.post("/v1/functions/{namespace}/{name}/call", self.call),
            web.post(TRIGGER + "/publish", self.publish),
            web.post(TRIGGER + "/suspend", self.suspend),
            *self.routes(),
        )

    async def status(self, request: web.Request) -> web.Response:
        fabric = self._fabric
        addresses = {"http": fabric.http_address, **{kind: broker.address for kind, broker in fabric.brokers.items()}}
        refused = fabric.refused_reload
        return json_answer(
            {
                **process_status(),
                "startedAt": fabric.started_at,
                "refusedReload": None if refused is None else {"problems": refused.problems, "at": refused.at},
                "addresses": {"kafka": None, "nats": None, **addresses},
                "functions": await functions_status(fabric),
                "triggers": self.triggers_status(),
            }
        )

    async def call(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        process = self._fabric.functions.get((namespace, name))
        if process is None:
            known = ", ".join(name for _, name in sorted(self._fabric.functions)) or "none"
            raise Refused(404, f"no function {name!r} in namespace {namespace!r}; known: {known}")
        if process.gate.is_down:
            raise Refused(503, f"function {name!r} is {process.state.lower()}: {process.gate.down_reason}")
        message = await _message_of(request)
        headers = {
            **message.event_headers("call"),
            **message.headers,
            "content-type": message.content_type,
            "kubeirq-attempt": "1",  # the function may tell this caller why it fails
        }
        began = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=_CALL_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.post(process.gate.url, data=message.body, headers=headers) as answer,
            ):
                body = await answer.read()
        except TimeoutError as error:
            raise Refused(502, f"function {name!r}: no answer within {_CALL_SECONDS} s") from error
        except aiohttp.ClientError as error:
            reason = await process.gate.why_lost(began) if process.gate.why_lost is not None else ""
            raise Refused(502, f"function {name!r}: no answer: {reason or str(error)}") from error
        found = {name: answer.headers[name] for name in ("content-type", "kubeirq-error") if name in answer.headers}
        found["kubeirq-status"] = str(answer.status)
        return web.Response(body=body, headers=found)

    async def publish(self, request: web.Request) -> web.Response:
        trigger = self.trigger(request)
        try:
            count = int(request.query.get("count", "1"))
        except ValueError:
            raise Refused(400, "count: must be a number") from None
        if not 1 <= count <= MOST_PUBLISHED:
            raise Refused(400, f"count: must be between 1 and {MOST_PUBLISHED}")
        try:
            positions = await publish(trigger, self._fabric, await _message_of(request), count)
        except CannotPublish as error:
            raise Refused(400, str(error)) from error
        return json_answer({"published": count, "positions": positions})

    async def suspend(self, request: web.Request) -> web.Response:
        await self._fabric.suspend(self.trigger(request).uid, True)
        log.info("suspended by hand", extra=self._where(request))
        return json_answer({})

    async def resume(self, request: web.Request) -> web.Response:
        trigger = self.trigger(request)
        if trigger.spec.suspend:
            raise Refused(409, f"{trigger.name}: its file sets spec.suspend to true; set it to false there")
        await self._fabric.suspend(trigger.uid, False)
        log.info("resumed by hand", extra=self._where(request))
        return json_answer({})


async def _message_of(request: web.Request) -> Message:
    """The message of `call` or `publish`. Raises Refused."""
    query = request.query
    try:
        named = {name: orjson.loads(query[name]) for name in ("headers", "attributes") if name in query}
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"headers, attributes: JSON is needed: {error}") from error
    content_type = request.headers.get("content-type", "application/json")
    return Message(
        await request.read(),
        content_type,
        headers=named.get("headers", {}),
        attributes=named.get("attributes", {}),
        key=query.get("key"),
        subject=query.get("subject"),
        path=query.get("path"),
    )


async def functions_status(fabric: Fabric) -> list[dict[str, Any]]:
    """The state of each function's process, ready for JSON."""
    found = sorted(fabric.functions.items())
    busy = await asyncio.gather(*(process.busy() for _, process in found))
    return [
        {
            "namespace": namespace,
            "name": name,
            "runtime": process.newest.environment.get("FUNC_RUNTIME") if process.newest is not None else None,
            "state": process.state,
            "pid": process.pid,
            "address": process.address,
            "restarts": process.restarts,
            "since": process.since,
            "lastError": process.last_error,
            "lastErrorAt": process.last_error_at if process.last_error else None,
            "busy": text or None,
        }
        for ((namespace, name), process), text in zip(found, busy, strict=True)
    ]
