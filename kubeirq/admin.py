"""The admin API of a running fabric: HTTP on a Unix socket that only its owner can open."""

import asyncio
import base64
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from kubeirq.fabric import Fabric
from kubeirq.publishing import CannotPublish, publish
from trigger_sources.dead_letters import DeadLetter, metadata_from_letter
from trigger_sources.flows import RunningTrigger, TriggerResource
from trigger_sources.source import SourceError

_BODY_MAX_BYTES = 64 * 1024 * 1024
_CALL_SECONDS = 600
_TRIGGER = "/v1/triggers/{namespace}/{kind}/{name}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """What was asked for cannot be done; the status and the text are the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@asynccontextmanager
async def admin_api(fabric: Fabric, socket: Path) -> AsyncIterator[None]:
    """Serves it while the context is open. A socket that is there is a dead fabric's: the caller has the lock."""
    _remove(socket)
    api = Admin(fabric)
    runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, str(socket)).start()
    finally:
        os.umask(before)
    try:
        yield
    finally:
        await runner.cleanup()
        _remove(socket)


class Admin:
    """The API's handlers."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    def application(self) -> web.Application:
        application = web.Application(client_max_size=_BODY_MAX_BYTES, middlewares=[_errors_as_json])
        application.add_routes(
            [
                web.get("/v1/status", self.status),
                web.post("/v1/functions/{namespace}/{name}/call", self.call),
                web.post(_TRIGGER + "/publish", self.publish),
                web.get(_TRIGGER + "/dead-letters", self.dead_letters),
                web.get(_TRIGGER + "/dead-letters/show", self.show),
                web.post(_TRIGGER + "/dead-letters/redrive", self.redrive),
                web.post(_TRIGGER + "/dead-letters/purge", self.purge),
                web.post(_TRIGGER + "/suspend", self.suspend),
                web.post(_TRIGGER + "/resume", self.resume),
                web.get(_TRIGGER + "/lanes", self.lanes),
                web.post(_TRIGGER + "/lanes/release", self.release),
                web.post(_TRIGGER + "/lanes/skip", self.skip),
            ]
        )
        return application

    async def status(self, request: web.Request) -> web.Response:
        return _json(status_of(self._fabric))

    async def call(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        process = self._fabric.functions.get((namespace, name))
        if process is None:
            known = ", ".join(name for _, name in sorted(self._fabric.functions)) or "none"
            raise Refused(404, f"function {name!r}: not in namespace {namespace!r}; known: {known}")
        if process.gate.is_down:
            raise Refused(503, f"function {name!r} is {process.state.lower()}: {process.gate.down_reason}")
        headers = {
            "content-type": request.headers.get("content-type", "application/json"),
            "ce-specversion": "1.0",
            "ce-id": str(uuid.uuid4()),
            "ce-type": "dev.kubeirq.call",
            "ce-source": "/kubeirq/call",
        }
        timeout = aiohttp.ClientTimeout(total=_CALL_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.post(process.gate.url, data=await request.read(), headers=headers) as answer,
            ):
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Refused(502, f"function {name!r}: no answer: {error!r}") from error
        found = {"kubeirq-status": str(answer.status)}
        if "content-type" in answer.headers:
            found["content-type"] = answer.headers["content-type"]
        return web.Response(body=body, headers=found)

    async def publish(self, request: web.Request) -> web.Response:
        trigger = self._trigger(request)
        key = request.query.get("key")
        try:
            count = int(request.query.get("count", "1"))
        except ValueError:
            raise Refused(400, "count: a number is needed") from None
        if not 1 <= count <= 1_000_000:
            raise Refused(400, "count: between 1 and 1000000")
        content_type = request.headers.get("content-type", "application/json")
        try:
            positions = await publish(
                trigger, self._fabric, await request.read(), content_type, None if key is None else key.encode(), count
            )
        except CannotPublish as error:
            raise Refused(400, str(error)) from error
        return _json({"published": count, "positions": positions})

    async def dead_letters(self, request: web.Request) -> web.Response:
        try:
            limit = int(request.query.get("limit", "1000"))
        except ValueError:
            raise Refused(400, "limit: a number is needed") from None
        found: list[dict[str, Any]] = []
        async for letter, _ in self._letters(request):
            if len(found) >= limit:
                break
            found.append(_summary(letter))
        return _json({"deadLetters": found})

    async def show(self, request: web.Request) -> web.Response:
        wanted = request.query.get("identity", "")
        async for letter, _ in self._letters(request):
            if letter.identity == wanted:
                whole = orjson.loads(metadata_from_letter(letter))
                data = letter.event.data
                return _json({**whole, **_summary(letter), "attempts": whole["attempts"], "data": _base64(data)})
        raise Refused(404, f"no dead letter {wanted!r}")

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        asked = await _object(request)
        rate = asked.get("ratePerSecond")
        chosen: dict[int, tuple[RunningTrigger, list[DeadLetter]]] = {}
        async for letter, running in self._letters(request, asked.get("identities")):
            chosen.setdefault(id(running), (running, []))[1].append(letter)
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        counts = {"delivered": 0, "failed": 0}
        for running, letters in chosen.values():
            if asked.get("dryRun"):
                for letter in letters:
                    await _write_line(response, {"identity": letter.identity, "outcome": "dryRun", "status": None})
                continue
            async for letter, outcome in running.flow.redrive(letters, rate):
                counts["delivered" if outcome.kind in ("delivered", "filtered") else "failed"] += 1
                status = outcome.answer.status if outcome.answer is not None else None
                line = {"identity": letter.identity, "outcome": outcome.kind, "status": status}
                await _write_line(response, line)
        await _write_line(response, {"done": True, **counts})
        await response.write_eof()
        return response

    async def purge(self, request: web.Request) -> web.Response:
        purged = 0
        asked = await _object(request)
        chosen = [found async for found in self._letters(request, asked.get("identities"))]
        for letter, running in chosen:
            assert running.flow.dead_letters is not None
            await running.flow.dead_letters.remove(letter)
            running.flow.dispatcher.dead_letter_count -= 1
            purged += 1
        return _json({"purged": purged})

    async def suspend(self, request: web.Request) -> web.Response:
        await self._fabric.suspend(self._trigger(request).uid, True)
        return _json({})

    async def resume(self, request: web.Request) -> web.Response:
        trigger = self._trigger(request)
        if trigger.spec.suspend:
            raise Refused(409, f"{trigger.name}: spec.suspend is true in its file; change it there")
        await self._fabric.suspend(trigger.uid, False)
        return _json({})

    async def lanes(self, request: web.Request) -> web.Response:
        lanes = [
            {
                "key": _base64(lane.key),
                "partition": lane.partition,
                "events": lane.events,
                "state": lane.state,
                "since": lane.since,
                "message": lane.message,
                "function": running.flow.identity.function,
            }
            for running in self._running(request)
            for lane in running.flow.lanes_view()
        ]
        return _json({"lanes": lanes})

    async def release(self, request: web.Request) -> web.Response:
        key = _key(await _object(request))
        return _json({"lanes": sum(running.flow.release(key) for running in self._running(request))})

    async def skip(self, request: web.Request) -> web.Response:
        key = _key(await _object(request))
        return _json({"lanes": sum(running.flow.skip(key) for running in self._running(request))})

    def _trigger(self, request: web.Request) -> TriggerResource:
        namespace, kind, name = (request.match_info[part] for part in ("namespace", "kind", "name"))
        found = self._fabric.triggers.get(f"{namespace}/{kind}/{name}")
        if found is None:
            known = ", ".join(sorted(trigger.name for trigger in self._fabric.triggers.values())) or "none"
            raise Refused(404, f"{kind} {name!r}: not in namespace {namespace!r}; known triggers: {known}")
        return found

    def _running(self, request: web.Request) -> list[RunningTrigger]:
        uid = self._trigger(request).uid
        return [running for (found, _), running in self._fabric.flows.items() if found == uid]

    async def _letters(
        self, request: web.Request, identities: list[str] | None = None
    ) -> AsyncIterator[tuple[DeadLetter, RunningTrigger]]:
        """Of all functions of the trigger; None means all of them."""
        wanted = None if identities is None else set(identities)
        for running in self._running(request):
            if running.flow.dead_letters is None:
                raise Refused(503, f"{running.resource.name}: where its dead letters are is not known yet; it starts")
            async for letter in running.flow.dead_letters.letters():
                if wanted is None or letter.identity in wanted:
                    yield letter, running


def _remove(socket: Path) -> None:
    socket.unlink(missing_ok=True)


def status_of(fabric: Fabric) -> dict[str, Any]:
    """The whole status, as JSON has it."""
    addresses = {"http": fabric.http_address, **{kind: broker.address for kind, broker in fabric.brokers.items()}}
    return {
        "version": _version(),
        "pid": os.getpid(),
        "startedAt": fabric.started_at,
        "now": time.time(),
        "addresses": {"kafka": None, "nats": None, **addresses},
        "functions": [
            {
                "namespace": namespace,
                "name": name,
                "runtime": process.wanted.environment.get("FUNC_RUNTIME") if process.wanted is not None else None,
                "state": process.state,
                "pid": process.pid,
                "address": process.address,
                "restarts": process.restarts,
                "since": process.since,
                "lastError": process.last_error,
            }
            for (namespace, name), process in sorted(fabric.functions.items())
        ],
        "triggers": [_flow_status(fabric, running) for _, running in sorted(fabric.flows.items())]
        + [_without_functions(trigger) for trigger in _idle(fabric)],
    }


def _flow_status(fabric: Fabric, running: RunningTrigger) -> dict[str, Any]:
    identity, status = running.flow.identity, running.flow.status()
    counters = status.counters
    last = status.last_answer
    return {
        "kind": identity.kind,
        "namespace": identity.namespace,
        "name": identity.trigger,
        "function": identity.function,
        "uid": identity.uid,
        "conditions": [
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "since": condition.since,
            }
            for condition in status.conditions
        ],
        "counters": {
            name: getattr(counters, name)
            for name in (
                "received",
                "delivered",
                "retried",
                "filtered",
                "deadLettered",
                "dropped",
                "returned",
                "attempts",
            )
        },
        "inFlight": status.in_flight,
        "held": status.held,
        "lag": None if status.lag is None else {"events": status.lag.events, "seconds": status.lag.seconds},
        "deadLetters": status.dead_letters,
        "suspended": running.flow.trigger.suspend,
        "lastAnswer": None if last is None else {"status": last[0], "at": last[1], "latencySeconds": last[2]},
        "lastError": status.last_error,
    }


def _idle(fabric: Fabric) -> list[TriggerResource]:
    """Triggers whose selector matches no function."""
    running = {uid for uid, _ in fabric.flows}
    return [trigger for uid, trigger in sorted(fabric.triggers.items()) if uid not in running]


def _without_functions(trigger: TriggerResource) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "False", "reason": "NoFunction", "since": 0}
    return {
        "kind": trigger.kind,
        "namespace": trigger.namespace,
        "name": trigger.name,
        "function": None,
        "uid": trigger.uid,
        "conditions": [{**ready, "message": "its selector matches no Function"}],
        "counters": {},
        "inFlight": 0,
        "held": 0,
        "lag": None,
        "deadLetters": 0,
        "suspended": trigger.spec.suspend,
        "lastAnswer": None,
        "lastError": "",
    }


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "identity": letter.identity,
        "function": letter.function,
        "position": letter.position,
        "eventId": letter.event.id,
        "type": letter.event.type,
        "reason": letter.reason,
        "message": letter.message,
        "failedAt": letter.failed_at,
        "attempts": len(letter.attempts),
        "bytes": len(letter.event.data or b""),
        "key": _base64(letter.key),
        "redriven": letter.redriven,
    }


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as error:
        return _json({"error": str(error)}, error.status)
    except (SourceError, OSError) as error:
        return _json({"error": str(error)}, 503)
    except web.HTTPException as error:
        return _json({"error": error.reason}, error.status)


async def _object(request: web.Request) -> dict[str, Any]:
    body = await request.read()
    with contextlib.suppress(orjson.JSONDecodeError):
        found = orjson.loads(body or b"{}")
        if isinstance(found, dict):
            return found
    raise Refused(400, "the body is no JSON object")


def _key(asked: dict[str, Any]) -> bytes | None:
    key = asked.get("key")
    try:
        return None if key is None else base64.b64decode(key, validate=True)
    except (ValueError, TypeError):
        raise Refused(400, "key: base64 is needed") from None


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


async def _write_line(response: web.StreamResponse, line: dict[str, Any]) -> None:
    await response.write(orjson.dumps(line) + b"\n")
    await asyncio.sleep(0)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _version() -> str:
    try:
        return version("kubeirq")
    except PackageNotFoundError:
        return "unknown"
