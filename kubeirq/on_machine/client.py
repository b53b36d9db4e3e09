"""The client of the fabric on this machine, which uses its admin API and its log files."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import orjson

from kubeirq import name_lookup
from kubeirq.fabric_client import (
    Answer,
    Description,
    FabricUnreachable,
    Overview,
    Published,
    Refused,
    ResourceView,
    lanes_request,
)
from kubeirq.message import Message
from kubeirq.name_lookup import find_all, find_logged, find_one, select
from kubeirq.on_machine.admin_client import AdminClient
from kubeirq.on_machine.log_files import fabric_log, function_log, has_lines_about, read_records
from kubeirq.output.event_display import printable
from kubeirq.output.formats import age, ago, last_try
from kubeirq.output.letter_text import tell_unreadable
from kubeirq.output.trigger_lines import (
    ABOUT_LANES,
    condition_lines,
    failing_lines,
    flow_lines,
    next_steps,
    stuck_lane_lines,
    value_lines,
)


class MachineClient:
    """Implements `fabric_client.FabricClient` for the fabric on a state folder. Open it with `async with`."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._client = AdminClient(state)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def overview(self, selector: str | None, all_namespaces: bool) -> Overview:
        status = await self._client.get("/v1/status")
        found, refused = _views_of(status), status["refusedReload"]
        kinds = set[str]()
        if selector is not None:
            from trigger_sources.registry import kinds as installed

            kinds = set(installed())
        shown = select(found, selector, kinds)
        triggers = sorted((one for one in shown if one["kind"] != "Function"), key=_worst_first)
        functions = [one for one in shown if one["kind"] == "Function"]
        functions.sort(key=lambda one: (one["state"] == "Ready", one["name"]))
        return Overview(
            {
                "functions": [_without_kind(one) for one in functions],
                "triggers": triggers,
                "refusedReload": refused,
            },
            [
                (
                    ("TRIGGER", "FUNCTION", "READY", "DELIVERED", "RETRIED", "FAILED", "DEAD", "HELD", "LAG", "LAST"),
                    [_trigger_row(one) for one in triggers],
                ),
                (
                    ("FUNCTION", "STATE", "RUNTIME", "PID", "RESTARTS", "SINCE", "LAST ERROR"),
                    [_function_row(one) for one in functions],
                ),
            ],
            refused is None
            and all(one["state"] == "Ready" for one in functions)
            and all(_ready(one) == "True" for one in triggers),
            refusal_lines(refused),
        )

    async def describe(self, name: str) -> Sequence[Description]:
        status = await self._client.get("/v1/status")
        refused = status["refusedReload"]
        try:
            matching = find_all(_views_of(status), name)
        except Refused as error:
            raise Refused("\n".join([str(error), *refusal_lines(refused)])) from error
        last = len(matching) - 1
        return [
            Description(
                {**found, "refusedReload": refused},
                [
                    *_lines_of(found, status["functions"], await self._detail_lines(found)),
                    *(refusal_lines(refused) if number == last else ()),
                ],
            )
            for number, found in enumerate(matching)
        ]

    async def _detail_lines(self, found: ResourceView) -> list[str]:
        """The keys of lanes that wait, and the values that a filter saw."""
        lines: list[str] = []
        if found["kind"] == "Function":
            return lines
        if any(one["reason"] in ABOUT_LANES for one in found["conditions"]):
            lines += stuck_lane_lines(await self.lanes(found))
        if found.get("filteredInARow"):
            lines += value_lines((await self._client.get(f"{_path(found)}/filtered"))["filtered"])
        return lines

    async def call(self, function: str, message: Message) -> Answer:
        functions = [one for one in await self._views() if one["kind"] == "Function"]
        found = find_one(functions, function, name_lookup.FUNCTION)
        status, headers, answer = await self._client.send(
            f"/v1/functions/{found['namespace']}/{found['name']}/call",
            message.body,
            message.content_type,
            _query_of(message),
        )
        return Answer(int(headers.get("kubeirq-status", status)), answer, headers.get("kubeirq-error", ""))

    async def publish(self, trigger: str, message: Message, count: int) -> Published:
        found = await self.trigger(trigger)
        query = {"count": str(count), **_query_of(message)}
        path = f"{_path(found)}/publish"
        answer = orjson.loads((await self._client.send(path, message.body, message.content_type, query))[2])
        return Published(answer["published"], [str(position) for position in answer.get("positions") or []])

    async def fire(self, trigger: ResourceView) -> Sequence[Mapping[str, Any]]:
        answer = await self._client.post(f"{_path(trigger)}/fire")
        found: Sequence[Mapping[str, Any]] = answer["fired"]
        return found

    async def logs(self, name: str, tail: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        """Reads the log files, also after the fabric has stopped."""
        try:
            one = find_logged(await self._views(), name)
        except FabricUnreachable:
            found = _from_log_files(self._state, name)
            if found is None:
                raise
            one = found
        if one["kind"] == "Function":
            records = read_records(function_log(self._state, one["namespace"], one["name"]), tail, follow)
        else:
            records = read_records(fabric_log(self._state), tail, follow, f"{one['namespace']}/{one['name']}")
        async for record in records:
            yield record

    async def trigger(self, name: str) -> ResourceView:
        triggers = [one for one in await self._views() if one["kind"] != "Function"]
        return find_one(triggers, name, name_lookup.TRIGGER)

    async def failing(self, triggers: Sequence[ResourceView]) -> Sequence[str]:
        return [f"{one['kind']}/{one['name']}: {line}" for one in triggers for line in failing_lines(one)]

    async def suspend(self, trigger: ResourceView) -> None:
        await self._client.post(f"{_path(trigger)}/suspend")

    async def resume(self, trigger: ResourceView) -> None:
        await self._client.post(f"{_path(trigger)}/resume")

    async def dead_letters(self, trigger: ResourceView, limit: int) -> list[dict[str, Any]]:
        answer = await self._client.get(f"{_path(trigger)}/dead-letters", limit=str(limit))
        tell_unreadable(answer)
        found: list[dict[str, Any]] = answer["deadLetters"]
        return found

    async def dead_letter(self, trigger: ResourceView, identity: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._client.get(f"{_path(trigger)}/dead-letters/show", identity=identity)
        return found

    async def redrive(self, trigger: ResourceView, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async for line in self._client.lines(f"{_path(trigger)}/dead-letters/redrive", request):
            yield line

    async def purge(self, trigger: ResourceView, identities: Sequence[str] | None) -> tuple[int, Sequence[str]]:
        answer = await self._client.post(f"{_path(trigger)}/dead-letters/purge", {"identities": identities})
        tell_unreadable(answer)
        return int(answer["purged"]), answer["missing"]

    async def lanes(self, trigger: ResourceView) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._client.get(f"{_path(trigger)}/lanes"))["lanes"]
        return found

    async def act_on_lanes(self, trigger: ResourceView, verb: str, lane: str | None) -> int:
        answer = await self._client.post(f"{_path(trigger)}/lanes/{verb}", lanes_request(lane))
        return int(answer.get("lanes", 0))

    async def _views(self) -> list[ResourceView]:
        return _views_of(await self._client.get("/v1/status"))


def _views_of(status: Mapping[str, Any]) -> list[ResourceView]:
    return [*status["triggers"], *({**found, "kind": "Function"} for found in status["functions"])]


def refusal_lines(refused: Mapping[str, Any] | None) -> list[str]:
    """Says that the files are not what runs, and why."""
    if refused is None:
        return []
    head = f"the files changed at {ago(refused['at'])}, and cannot run; the version before still runs:"
    return [head, *(f"  {printable(line)}" for line in refused["problems"])]


def _query_of(message: Message) -> dict[str, str]:
    """The parts of the message besides its body."""
    found = {"key": message.key, "subject": message.subject, "path": message.path}
    for name, values in (("headers", message.headers), ("attributes", message.attributes)):
        found[name] = orjson.dumps(dict(values)).decode() if values else None
    return {name: value for name, value in found.items() if value is not None}


def _from_log_files(state: Path, name: str) -> ResourceView | None:
    """The function that has a log file, or else the trigger that the fabric's log is about."""
    front, _, last = name.rpartition("/")
    is_function = front.lower() == "function"
    is_trigger = front.lower().endswith("trigger")
    namespace = "default" if is_function or is_trigger or not front else front
    if not is_trigger and function_log(state, namespace, last).exists():
        return {"kind": "Function", "namespace": namespace, "name": last}
    if not is_function and has_lines_about(fabric_log(state), f"{namespace}/{last}"):
        return {"kind": "Trigger", "namespace": namespace, "name": last}
    return None


def _lines_of(found: ResourceView, functions: Sequence[ResourceView], details: Sequence[str]) -> list[str]:
    if found["kind"] == "Function":
        return function_lines(found)
    called = (found["namespace"], found["function"])
    function = next((one for one in functions if (one["namespace"], one["name"]) == called), None)
    return trigger_lines(found, function, details)


def function_lines(found: ResourceView) -> list[str]:
    lines = [f"{found['kind']} {found['namespace']}/{found['name']}"]
    lines += [
        f"  {label:10} {found[label]}"
        for label in ("state", "runtime", "pid", "address", "restarts")
        if found[label] not in (None, "")
    ]
    lines.append(f"  {'since':10} {ago(found['since'])}")
    if found.get("busy"):
        lines.append(f"  {'busy':10} {found['busy']}")
    if found["lastError"]:
        when = f" at {ago(found['lastErrorAt'])}" if found["lastErrorAt"] else ""
        lines.append(f"  last error{when}\n    " + found["lastError"].strip().replace("\n", "\n    "))
    if found["state"] in ("Down", "Failing") or found["lastError"]:
        has_run = found["pid"] is not None or found["restarts"]
        if found["state"] == "Failing" or not has_run:
            lines.append("  next: kubeirq check FILES, with the files that the fabric runs")
        if has_run:
            lines.append(f"  next: kubeirq logs Function/{found['name']}")
    return lines


def trigger_lines(found: ResourceView, function: ResourceView | None, details: Sequence[str]) -> list[str]:
    """`function` is the one that the trigger calls, if it is here. `details` go behind its counters."""
    lines = [f"{found['kind']} {found['namespace']}/{found['name']}", f"  calls {found['function']}"]
    if function is not None and function["state"] != "Ready":
        lines[-1] += f", which is {function['state']}"
        if function["lastError"]:
            lines[-1] += f": {function['lastError'].strip().splitlines()[0]}"
    elif function is not None and function.get("busy"):
        lines[-1] += f"; {function['busy']}"
    lines += condition_lines(found["conditions"])
    lines += [*flow_lines(found), *details]
    steps = next_steps(found)
    describes = f"kubeirq describe Function/{function['name']}" if function is not None else ""
    if function is not None and function["state"] == "Failing" and not any(describes in step for step in steps):
        steps.insert(0, describes)
    return lines + [f"  next: {step}" for step in steps]


def _trigger_row(found: ResourceView) -> Sequence[Any]:
    counters = found["counters"]
    return (
        f"{found['kind']}/{found['name']}", found["function"] or "-", _ready(found), counters.get("delivered", 0),
        counters.get("retried", 0), counters.get("dropped", 0), found["deadLetters"], found["held"],
        found["lag"]["events"] if found["lag"] else "-", last_try(found),
    )  # fmt: skip


def _function_row(found: ResourceView) -> Sequence[Any]:
    last_error = (found["lastError"] or "").strip().splitlines()[:1] or "-"
    return (
        found["name"], found["state"], found["runtime"] or "-", found["pid"] or "-", found["restarts"],
        age(found["since"]), last_error,
    )  # fmt: skip


def _without_kind(function: ResourceView) -> ResourceView:
    return {name: value for name, value in function.items() if name != "kind"}


def _path(trigger: ResourceView) -> str:
    return "/v1/triggers/" + "/".join(quote(trigger[part]) for part in ("namespace", "kind", "name"))


def _worst_first(trigger: ResourceView) -> tuple[bool, int, str]:
    return _ready(trigger) == "True", -trigger["deadLetters"], trigger["name"]


def _ready(trigger: ResourceView) -> str:
    condition = next((found for found in trigger["conditions"] if found["type"] == "Ready"), None)
    if condition is None:
        return "Unknown"
    return "True" if condition["status"] == "True" else str(condition["reason"])
