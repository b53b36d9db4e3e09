"""The admin API of the flows in one process: HTTP on a unix socket that only its owner can open."""

import asyncio
import base64
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from trigger_sources.context import SourceError
from trigger_sources.dead_letters import (
    DeadLetter,
    DeadLetters,
    DeadLettersOfFunctions,
    Unreadable,
    log_unreadable,
    metadata_from_letter,
)
from trigger_sources.delivery import Outcome
from trigger_sources.dispatch.flows import Flows, RunningTrigger, TriggerResource, without_flow
from trigger_sources.source import Lag

log = logging.getLogger(__name__)

TRIGGER = "/v1/triggers/{namespace}/{kind}/{name}"
_BODY_MAX_BYTES = 64 * 1024 * 1024
_FIRE_SECONDS = 20.0  # less than the command line waits for an answer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """A request that cannot be fulfilled; the status and the text are the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@asynccontextmanager
async def served(application: web.Application, socket: Path) -> AsyncIterator[None]:
    """Serves it while the context is open, to the socket's owner. Replaces the socket of a dead process."""
    _remove(socket)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
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


def _remove(socket: Path) -> None:
    socket.unlink(missing_ok=True)


def application_of(*routes: web.RouteDef) -> web.Application:
    """An application that answers refusals of handlers and errors of sources or transports as `{"error": text}`."""
    application = web.Application(client_max_size=_BODY_MAX_BYTES, middlewares=[_errors_as_json])
    application.add_routes(routes)
    return application


class FlowAdmin:
    """The state of the flows, and the actions on their dead letters and lanes.

    `triggers` returns all triggers that this process knows at the time of a request, with or without a flow here; the
    keys do not matter. `idle` returns the reason and message for a trigger without a flow.
    """

    def __init__(
        self,
        flows: Flows,
        triggers: Callable[[], Mapping[str, TriggerResource]],
        *,
        replica: str = "",
        idle: Callable[[TriggerResource], tuple[str, str]] = lambda trigger: without_flow(trigger.spec),
    ) -> None:
        self._flows = flows
        self._triggers = triggers
        self._replica = replica
        self._idle = idle
        self._started_at = time.time()

    def application(self) -> web.Application:
        """An application for a process with only flows: `/v1/status` and the routes."""
        return application_of(web.get("/v1/status", self.status), *self.routes())

    def routes(self) -> list[web.RouteDef]:
        """The requests about one trigger, by namespace, kind and name."""
        return [
            web.get(TRIGGER + "/dead-letters", self.dead_letters),
            web.get(TRIGGER + "/dead-letters/show", self.show),
            web.post(TRIGGER + "/dead-letters/redrive", self.redrive),
            web.post(TRIGGER + "/dead-letters/purge", self.purge),
            web.post(TRIGGER + "/resume", self.resume),
            web.post(TRIGGER + "/fire", self.fire),
            web.get(TRIGGER + "/lanes", self.lanes),
            web.get(TRIGGER + "/filtered", self.filtered),
            web.post(TRIGGER + "/lanes/release", self.release),
            web.post(TRIGGER + "/lanes/skip", self.skip),
        ]

    # --- looking

    async def status(self, request: web.Request) -> web.Response:
        process = {**process_status(), "replica": self._replica, "startedAt": self._started_at}
        return json_answer({**process, "triggers": self.triggers_status()})

    def triggers_status(self) -> list[dict[str, Any]]:
        """The status of each flow, and of each trigger that has no flow here."""
        running = sorted(self._flows.running.items())
        with_flows = {uid for (uid, _), _ in running}
        idle = [trigger for trigger in self._triggers().values() if trigger.uid not in with_flows]
        return [
            *(_flow_status(found) for _, found in running),
            *(_idle_status(trigger, *self._idle(trigger)) for trigger in sorted(idle, key=lambda found: found.uid)),
        ]

    def trigger(self, request: web.Request) -> TriggerResource:
        """The trigger that the path names. Raises Refused."""
        namespace, kind, name = (request.match_info[part] for part in ("namespace", "kind", "name"))
        triggers = self._triggers().values()
        for trigger in triggers:
            if (trigger.namespace, trigger.kind, trigger.name) == (namespace, kind, name):
                return trigger
        known = ", ".join(sorted(trigger.name for trigger in triggers)) or "none"
        raise Refused(404, f"{kind} {name!r}: not in namespace {namespace!r}; known triggers: {known}")

    # --- dead letters

    async def dead_letters(self, request: web.Request) -> web.Response:
        try:
            limit = int(request.query.get("limit", "1000"))
        except ValueError:
            raise Refused(400, "limit: a number is needed") from None
        found: list[dict[str, Any]] = []
        unreadable: list[str] = []
        async for letter, _ in self._letters(request, unreadable=unreadable):
            if len(found) >= limit:
                break
            found.append(_summary(letter))
        return json_answer({"deadLetters": found, "unreadable": unreadable})

    async def show(self, request: web.Request) -> web.Response:
        wanted = request.query.get("identity", "")
        async for letter, _ in self._letters(request):
            if letter.identity == wanted:
                whole = orjson.loads(metadata_from_letter(letter))
                data = _base64(letter.event.data)
                return json_answer({**whole, **_summary(letter), "attempts": whole["attempts"], "data": data})
        raise Refused(404, f"no dead letter {wanted!r}")

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        asked = await json_object(request)
        rate = asked.get("ratePerSecond")
        if not asked.get("dryRun") and any(running.flow.trigger.suspend for running in self._running(request)):
            raise Refused(409, f"{self.trigger(request).name} is suspended: nothing is delivered; resume it first")
        unreadable: list[str] = []
        places = await self._places(request, unreadable)
        wanted = asked.get("identities")
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        counts = {"delivered": 0, "failed": 0}
        for place in places:
            letters = _chosen(place.letters, wanted)
            if place.redriven_by is None:
                async for letter in letters:
                    counts["failed"] += 1
                    refused = {"identity": letter.identity, "outcome": "returned", "reason": place.problem}
                    await _write_line(response, refused)
            elif asked.get("dryRun"):
                async for letter in letters:
                    await _write_line(response, {"identity": letter.identity, "outcome": "dryRun", "status": None})
            else:
                async for letter, outcome in place.redriven_by.flow.redrive(letters, rate, place.former):
                    counts["delivered" if outcome.kind in ("delivered", "filtered") else "failed"] += 1
                    status = outcome.answer.status if outcome.answer is not None else None
                    line = {"identity": letter.identity, "outcome": outcome.kind, "status": status}
                    if outcome.kind == "returned":
                        line["reason"] = outcome.message or outcome.reason
                    await _write_line(response, line)
        if not asked.get("dryRun"):
            log.info("dead letters redriven", extra={**self._where(request), **counts})
        await _write_line(response, {"done": True, **counts, "unreadable": unreadable})
        await response.write_eof()
        return response

    async def purge(self, request: web.Request) -> web.Response:
        purged = 0
        asked = await json_object(request)
        missing = set(asked.get("identities") or ())
        unreadable: list[str] = []
        async for letter, place in self._letters(request, asked.get("identities"), unreadable):
            if place.own is not None:
                await place.own.flow.dispatcher.letters.remove(letter, place.former)
            else:
                await place.letters.remove(letter)
            purged += 1
            missing.discard(letter.identity)
        log.info("dead letters purged", extra={**self._where(request), "count": purged})
        return json_answer({"purged": purged, "missing": sorted(missing), "unreadable": unreadable})

    # --- flow

    async def resume(self, request: web.Request) -> web.Response:
        """Resumes a trigger that is held because everything failed."""
        trigger = self.trigger(request)
        for running in self._flows.of(trigger.uid):
            running.flow.resume()
        log.info("resumed", extra=self._where(request))
        return json_answer({})

    async def fire(self, request: web.Request) -> web.Response:
        """Calls the trigger's functions with an event of this moment, and waits for the outcomes for a while."""
        trigger, running = self.trigger(request), self._running(request)
        if not running:
            raise Refused(409, f"{trigger.name}: {self._idle(trigger)[1]}")
        if any(one.flow.trigger.suspend for one in running):
            raise Refused(409, f"{trigger.name} is suspended: nothing is delivered; resume it first")
        if running[0].flow.trigger.event_now(running[0].flow.context) is None:
            raise Refused(400, f"{trigger.kind} {trigger.name}: its events come from outside; publish one there")
        firing = {one.flow.identity.function: asyncio.ensure_future(one.flow.fire()) for one in running}
        log.info("fired by hand", extra=self._where(request))
        await asyncio.wait(firing.values(), timeout=_FIRE_SECONDS)
        return json_answer({"fired": [_fired(name, task) for name, task in firing.items()]})

    async def lanes(self, request: web.Request) -> web.Response:
        lanes = [
            {
                "name": lane.name,
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
        return json_answer({"lanes": lanes})

    async def filtered(self, request: web.Request) -> web.Response:
        """The events that each flow's filter has kept out without a break, and the values in the last one."""
        streaks = [(one.flow.identity.function, one.flow.dispatcher.filter_streak) for one in self._running(request)]
        found = [
            {"function": function, "count": streak.count, "since": streak.since, "last": streak.last()}
            for function, streak in streaks
            if streak is not None and streak.count
        ]
        return json_answer({"filtered": found})

    async def release(self, request: web.Request) -> web.Response:
        lane = _lane(await json_object(request))
        count = sum(running.flow.release(lane) for running in self._running(request))
        log.info("lanes released", extra={**self._where(request), "count": count})
        return json_answer({"lanes": count})

    async def skip(self, request: web.Request) -> web.Response:
        lane = _lane(await json_object(request))
        count = sum(running.flow.skip(lane) for running in self._running(request))
        log.info("lanes skipped", extra={**self._where(request), "count": count})
        return json_answer({"lanes": count})

    # --- helpers

    def _running(self, request: web.Request) -> list[RunningTrigger]:
        return self._flows.of(self.trigger(request).uid)

    async def _letters(
        self, request: web.Request, identities: list[str] | None = None, unreadable: list[str] | None = None
    ) -> AsyncIterator[tuple[DeadLetter, "_Place"]]:
        """The dead letters of all functions of the trigger: those with these identities, or all for None.

        Adds a line to `unreadable` for each one that cannot be read, and for each place that cannot be reached.
        """
        for place in await self._places(request, unreadable if unreadable is not None else []):
            async for letter in _chosen(place.letters, identities):
                yield letter, place

    async def _places(self, request: web.Request, unreadable: list[str]) -> "list[_Place]":
        """The places of the dead letters of all functions of the trigger, present and former. Raises Refused."""

        def note(found: Unreadable) -> None:
            log_unreadable(found)
            unreadable.append(str(found))

        running = self._running(request)
        if not running:
            trigger = self.trigger(request)
            raise Refused(409, f"{trigger.name}: its dead letters are out of reach: {self._idle(trigger)[1]}")
        opened = {one.flow.identity.function: (await self._place(one), one) for one in running}
        places = [_Place(_read_by(letters, name, note), one, one) for name, (letters, one) in opened.items()]
        first, one = next(iter(opened.values()))
        edited = await one.flow.former_places(unreadable.append)
        only = running[0] if len(running) == 1 else None
        for kept in (first, *edited):
            if not isinstance(kept, DeadLettersOfFunctions):
                continue
            former = kept if kept is not first else None
            for name in sorted(set(await kept.functions()) - (opened.keys() if former is None else set())):
                own = opened[name][1] if name in opened else None
                problem = "" if own is not None else _problem_of(name, sorted(opened))
                places.append(_Place(kept.of(name, note), own, own or only, problem, former))
        return places

    async def _place(self, running: RunningTrigger) -> DeadLetters:
        """The place of its dead letters. Raises Refused while that is not known."""
        found = await running.flow.open_dead_letters()
        if found is None:
            why = running.flow.connected[2] or "it is starting"
            raise Refused(503, f"{running.resource.name}: the place of its dead letters is not known yet: {why}")
        return found

    def _where(self, request: web.Request) -> dict[str, str]:
        return {"trigger": f"{request.match_info['namespace']}/{request.match_info['name']}"}


@dataclass(frozen=True, slots=True)
class _Place:
    """The dead letters of one function, and the flows that act on them. `problem` says why no flow redrives them.

    `former`: the place that has them, if the spec names another one now.
    """

    letters: DeadLetters
    own: RunningTrigger | None  # of the function; None: it is a former function of the trigger
    redriven_by: RunningTrigger | None
    problem: str = ""
    former: DeadLetters | None = None


def _read_by(letters: DeadLetters, function: str, unreadable: Callable[[Unreadable], None]) -> DeadLetters:
    """The same dead letters, where those that cannot be read are told to `unreadable`. A plugin's need not tell."""
    return letters.of(function, unreadable) if isinstance(letters, DeadLettersOfFunctions) else letters


def _problem_of(former: str, functions: list[str]) -> str:
    return (
        f"{former} is no function of the trigger any more, and it is not clear which of {', '.join(functions)} replaces"
        f" it: let the trigger call {former} again, or purge the dead letter"
    )


def _fired(function: str, task: "asyncio.Future[Outcome | None]") -> dict[str, Any]:
    """How the call went; without an outcome, it has not ended."""
    outcome = task.result() if task.done() else None
    if outcome is None:
        return {"function": function, "outcome": None, "reason": "", "message": "", "status": None}
    status = outcome.answer.status if outcome.answer is not None else None
    message = {"reason": outcome.reason, "message": outcome.message, "status": status}
    return {"function": function, "outcome": outcome.kind, **message}


async def _chosen(place: DeadLetters, identities: list[str] | None) -> AsyncIterator[DeadLetter]:
    """The letters with these identities, or all for None, one at a time."""
    wanted = None if identities is None else set(identities)
    async for letter in place.letters():
        if wanted is None or letter.identity in wanted:
            yield letter


def process_status() -> dict[str, Any]:
    """The status of a process itself."""
    try:
        found = version("kubeirq")
    except PackageNotFoundError:
        found = "unknown"
    return {"version": found, "pid": os.getpid(), "now": time.time()}


def json_answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


async def json_object(request: web.Request) -> dict[str, Any]:
    """The request's body; an empty one is an empty object. Raises Refused."""
    body = await request.read()
    with contextlib.suppress(orjson.JSONDecodeError):
        found = orjson.loads(body or b"{}")
        if isinstance(found, dict):
            return found
    raise Refused(400, "the body is not a JSON object")


def _flow_status(running: RunningTrigger) -> dict[str, Any]:
    identity, status = running.flow.identity, running.flow.status()
    counters, streak = status.counters, running.flow.dispatcher.filter_streak
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
                "withdrawn",
                "refused",
                "lost",
                "attempts",
            )
        },
        "countersSince": status.counters_since,
        "callersWait": running.flow.trigger.callers_wait,
        "inFlight": status.in_flight,
        "held": status.held,
        "filteredInARow": None
        if streak is None or not streak.count
        else {"count": streak.count, "since": streak.since},
        "lag": None if status.lag is None else _lag(status.lag),
        "deadLetters": status.dead_letters,
        "suspended": running.flow.trigger.suspend,
        "lastAnswer": None if last is None else {"status": last[0], "at": last[1], "latencySeconds": last[2]},
        "lastError": status.last_error,
        "lastErrorAt": status.last_error_at,
    }


def _lag(lag: Lag) -> dict[str, Any]:
    return {"events": lag.events, "seconds": lag.seconds, "ofShare": lag.of_share}


def _idle_status(trigger: TriggerResource, reason: str, message: str) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "False", "reason": reason, "message": message, "since": 0}
    return {
        "kind": trigger.kind,
        "namespace": trigger.namespace,
        "name": trigger.name,
        "function": None,
        "uid": trigger.uid,
        "conditions": [ready],
        "counters": {},
        "inFlight": 0,
        "held": 0,
        "lag": None,
        "deadLetters": 0,
        "suspended": trigger.spec.suspend,
        "lastAnswer": None,
        "lastError": "",
        "lastErrorAt": None,
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
        return json_answer({"error": str(error)}, error.status)
    except (SourceError, OSError) as error:
        return json_answer({"error": str(error)}, 503)
    except web.HTTPException as error:
        return json_answer({"error": error.reason}, error.status)
    except Exception as error:
        log.exception("admin request failed", extra={"path": request.path})
        return json_answer({"error": f"a fault of kubeirq: {type(error).__name__}: {error}; its log has more"}, 500)


def _lane(asked: dict[str, Any]) -> str | None:
    """The name of the lane, or None for all, which the request has to say. Raises Refused."""
    lane = asked.get("lane")
    if isinstance(lane, str):
        return lane
    if asked.get("all") is not True:
        raise Refused(
            400, "lane: the name of a lane is needed, or all: true; the command line may be of another version"
        )
    return None


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


async def _write_line(response: web.StreamResponse, line: dict[str, Any]) -> None:
    await response.write(orjson.dumps(line) + b"\n")
    await asyncio.sleep(0)
