"""The fabric of this machine, asked by its admin API."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import orjson

from kubeirq.fabric_client import Answer, Description, Named, NotRunning, Overview, Published, chosen, one_of
from kubeirq.on_machine.admin_client import AdminClient
from kubeirq.on_machine.log_files import function_log, lines_of, trigger_log
from kubeirq.output.texts import age, last_answer
from kubeirq.output.trigger_text import advice_for, condition_lines, flow_lines


class OnMachine:
    """`asked.Asked`, for the fabric on a state folder. Open it as a context."""

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

    async def overview(self, what: str | None, everywhere: bool) -> Overview:
        found = await self._found()
        kinds = set[str]()
        if what is not None:
            from trigger_sources.registry import kinds as installed

            kinds = set(installed())
        shown = chosen(found, what, kinds)
        triggers = sorted((one for one in shown if one["kind"] != "Function"), key=_worst_first)
        functions = [one for one in shown if one["kind"] == "Function"]
        functions.sort(key=lambda one: (one["state"] == "Ready", one["name"]))
        return Overview(
            {"functions": [_without_kind(one) for one in functions], "triggers": triggers},
            [
                (
                    ("TRIGGER", "FUNCTION", "READY", "DELIVERED", "RETRIED", "DEAD", "HELD", "LAG", "LAST"),
                    [_trigger_row(one) for one in triggers],
                ),
                (
                    ("FUNCTION", "STATE", "RUNTIME", "PID", "RESTARTS", "SINCE", "LAST ERROR"),
                    [_function_row(one) for one in functions],
                ),
            ],
            all(one["state"] == "Ready" for one in functions) and all(_ready(one) == "True" for one in triggers),
        )

    async def describe(self, name: str) -> Description:
        found = one_of(await self._found(), name)
        lines = function_lines(found) if found["kind"] == "Function" else trigger_lines(found)
        return Description(found, lines)

    async def call(self, function: str, body: bytes, content_type: str) -> Answer:
        found = one_of([one for one in await self._found() if one["kind"] == "Function"], function)
        status, headers, answer = await self._client.send(
            f"/v1/functions/{found['namespace']}/{found['name']}/call", body, content_type
        )
        return Answer(int(headers.get("kubeirq-status", status)), answer)

    async def publish(self, trigger: str, body: bytes, content_type: str, key: str | None, count: int) -> Published:
        found = await self.trigger(trigger)
        query = {"count": str(count), **({"key": key} if key is not None else {})}
        answer = orjson.loads((await self._client.send(f"{_path(found)}/publish", body, content_type, **query))[2])
        return Published(answer["published"], [str(position) for position in answer.get("positions") or []])

    async def logs(self, name: str, tail: int, follow: bool) -> AsyncIterator[str]:
        """From files: also of a fabric that does not run any more."""
        try:
            one = one_of(await self._found(), name)
        except NotRunning:
            front, _, last = name.rpartition("/")
            one = {"kind": "Function", "namespace": front or "default", "name": last}
            if not function_log(self._state, one["namespace"], last).exists():
                raise
        if one["kind"] == "Function":
            lines = lines_of(function_log(self._state, one["namespace"], one["name"]), tail, follow)
        else:
            lines = lines_of(trigger_log(self._state), tail, follow, f"{one['namespace']}/{one['name']}")
        async for line in lines:
            yield line

    async def trigger(self, name: str) -> Named:
        return one_of([one for one in await self._found() if one["kind"] != "Function"], name)

    async def suspend(self, trigger: Named) -> None:
        await self._client.post(f"{_path(trigger)}/suspend")

    async def resume(self, trigger: Named) -> None:
        await self._client.post(f"{_path(trigger)}/resume")

    async def dead_letters(self, trigger: Named, limit: int) -> list[dict[str, Any]]:
        answer = await self._client.get(f"{_path(trigger)}/dead-letters", limit=str(limit))
        found: list[dict[str, Any]] = answer["deadLetters"]
        return found

    async def dead_letter(self, trigger: Named, identity: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._client.get(f"{_path(trigger)}/dead-letters/show", identity=identity)
        return found

    async def redrive(self, trigger: Named, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async for line in self._client.lines(f"{_path(trigger)}/dead-letters/redrive", request):
            yield line

    async def purge(self, trigger: Named, identities: Sequence[str] | None) -> int:
        answer = await self._client.post(f"{_path(trigger)}/dead-letters/purge", {"identities": identities})
        return int(answer["purged"])

    async def lanes(self, trigger: Named) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._client.get(f"{_path(trigger)}/lanes"))["lanes"]
        return found

    async def act_on_lanes(self, trigger: Named, verb: str, key: str | None) -> int:
        answer = await self._client.post(f"{_path(trigger)}/lanes/{verb}", {"key": key})
        return int(answer.get("lanes", 0))

    async def _found(self) -> list[Named]:
        status = await self._client.get("/v1/status")
        return [*status["triggers"], *({**found, "kind": "Function"} for found in status["functions"])]


def function_lines(found: Named) -> list[str]:
    lines = [f"{found['kind']} {found['namespace']}/{found['name']}"]
    lines += [f"  {label:10} {found[label]}" for label in ("state", "runtime", "pid", "address", "restarts")]
    lines.append(f"  {'since':10} {age(found['since'])} ago")
    if found["lastError"]:
        lines.append("  last error\n    " + found["lastError"].strip().replace("\n", "\n    "))
    return lines


def trigger_lines(found: Named) -> list[str]:
    lines = [f"{found['kind']} {found['namespace']}/{found['name']}", f"  calls {found['function']}"]
    lines += condition_lines(found["conditions"])
    lines += flow_lines(found)
    return lines + [f"  next: {advice}" for advice in advice_for(found)]


def _trigger_row(found: Named) -> Sequence[Any]:
    counters = found["counters"]
    return (
        f"{found['kind']}/{found['name']}", found["function"] or "-", _ready(found), counters.get("delivered", 0),
        counters.get("retried", 0), found["deadLetters"], found["held"],
        found["lag"]["events"] if found["lag"] else "-", last_answer(found["lastAnswer"]),
    )  # fmt: skip


def _function_row(found: Named) -> Sequence[Any]:
    last_error = (found["lastError"] or "").strip().splitlines()[-1:] or "-"
    return (
        found["name"], found["state"], found["runtime"], found["pid"] or "-", found["restarts"], age(found["since"]),
        last_error,
    )  # fmt: skip


def _without_kind(function: Named) -> Named:
    return {name: value for name, value in function.items() if name != "kind"}


def _path(trigger: Named) -> str:
    return "/v1/triggers/" + "/".join(quote(trigger[part]) for part in ("namespace", "kind", "name"))


def _worst_first(trigger: Named) -> tuple[bool, int, str]:
    return _ready(trigger) == "True", -trigger["deadLetters"], trigger["name"]


def _ready(trigger: Named) -> str:
    condition = next((found for found in trigger["conditions"] if found["type"] == "Ready"), None)
    if condition is None:
        return "Unknown"
    return "True" if condition["status"] == "True" else str(condition["reason"])
