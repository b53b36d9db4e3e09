"""Asks the controller of a trigger for the state that the resource's status does not have: flows, lanes, dead letters.

A controller has several replicas, and each one knows only its own share of the flows.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import click

from kubeirq.fabric_client import Refused, ResourceView
from kubeirq.on_cluster.connection import Cluster
from kubeirq.on_cluster.merge_flows import flows_of, merge_flows
from kubeirq.on_cluster.replicas import (
    Replica,
    ReplicaUnreachable,
    component_of,
    replicas_of,
    request,
    stream_lines,
)

_MAX_LETTERS_TO_COUNT = 500  # with more dead letters, their exact number is not worth the time to list them


@dataclass(frozen=True)
class TriggerState:
    """The state of a trigger in its controller."""

    flows: Sequence[dict[str, Any]] = ()  # one for each function
    replicas: Sequence[dict[str, Any]] = ()
    problem: str = ""  # why the controller's state is not known


class ControllerClient:
    """Sends requests to the replicas that run a trigger."""

    def __init__(self, cluster: Cluster, system_namespace: str | None) -> None:
        self._cluster = cluster
        self._system_namespace = system_namespace

    async def replicas(self, kind: str) -> list[Replica]:
        """The replicas of the controller for this kind of trigger. Raises Refused if there are none."""
        return await replicas_of(self._cluster, component_of(kind), self._system_namespace)

    async def state(self, trigger: ResourceView) -> TriggerState:
        """The flows of all replicas, merged. If the controller cannot be asked, the result says why."""
        try:
            replicas = await self.replicas(trigger["kind"])
            statuses, problems = await self._statuses(replicas, trigger)
        except Refused as error:
            return TriggerState(problem=str(error))
        by_replica = {name: flows_of(status, trigger["uid"]) for name, status in statuses.items()}
        flows = merge_flows([flow for found in by_replica.values() for flow in found])
        holders = [replica for replica in replicas if by_replica.get(replica.name)]
        if holders and sum(flow["deadLetters"] for flow in flows) <= _MAX_LETTERS_TO_COUNT:
            await self._count_letters(trigger, holders[0], flows)
        reports = [
            {
                "name": replica.name,
                "runs": bool(by_replica.get(replica.name)),
                "held": sum(flow["held"] for flow in by_replica.get(replica.name, [])),
                "problem": problems.get(replica.name, ""),
            }
            for replica in replicas
        ]
        return TriggerState(flows, reports)

    async def holders(self, trigger: ResourceView) -> list[Replica]:
        """The replicas that run the trigger. Writes those that do not answer to standard error.

        Raises Refused if no replica runs it.
        """
        replicas = await self.replicas(trigger["kind"])
        statuses, problems = await self._statuses(replicas, trigger)
        found = [
            replica for replica in replicas if flows_of(statuses.get(replica.name, {"triggers": []}), trigger["uid"])
        ]
        missing = [f"replica {name} did not answer: {problem}" for name, problem in sorted(problems.items())]
        if not found:
            why = "; ".join(missing) or f"{trigger['reason']}: {trigger['message']}"
            raise Refused(f"no replica runs {trigger['kind']}/{trigger['name']} now: {why}")
        for line in missing:
            click.echo(f"({line})", err=True)
        return found

    async def request_one(self, trigger: ResourceView, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The answer of one replica that runs the trigger, for state that all replicas share, such as dead letters."""
        (replica, *_) = await self.holders(trigger)
        url = f"{_path(trigger)}/{path}"
        return await _or_refused(request(self._cluster, replica, method, url, body, **query), replica)

    async def request_all(
        self, trigger: ResourceView, method: str, path: str, body: Any = None
    ) -> list[tuple[str, Any]]:
        """The name and the answer of every replica that runs the trigger."""
        url = f"{_path(trigger)}/{path}"
        return [
            (replica.name, await _or_refused(request(self._cluster, replica, method, url, body), replica))
            for replica in await self.holders(trigger)
        ]

    async def redrive(self, trigger: ResourceView, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        (replica, *_) = await self.holders(trigger)
        try:
            async for line in stream_lines(
                self._cluster, replica, "POST", f"{_path(trigger)}/dead-letters/redrive", body
            ):
                yield line
        except ReplicaUnreachable as error:
            raise Refused(f"replica {replica.name}: {error}; `kubeirq dead-letters list` shows those left") from error

    async def _count_letters(self, trigger: ResourceView, holder: Replica, flows: Sequence[dict[str, Any]]) -> None:
        """Replaces the counts of dead letters: a replica knows only those that it wrote itself since it started."""
        path = f"{_path(trigger)}/dead-letters"
        with suppress(ReplicaUnreachable, Refused):
            answer = await request(self._cluster, holder, "GET", path, limit=str(2 * _MAX_LETTERS_TO_COUNT))
            counts = Counter(letter["function"] for letter in answer["deadLetters"])
            for flow in flows:
                flow["deadLetters"] = counts.total() if len(flows) == 1 else counts[flow["function"]]

    async def _statuses(
        self, replicas: Sequence[Replica], trigger: ResourceView
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The statuses by replica, and the problems of replicas that did not answer. Raises AccessDenied."""
        answers = await asyncio.gather(
            *(
                request(self._cluster, replica, "GET", "/v1/status", namespace=trigger["namespace"])
                for replica in replicas
            ),
            return_exceptions=True,
        )
        statuses: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for replica, answer in zip(replicas, answers, strict=True):
            if isinstance(answer, ReplicaUnreachable):
                problems[replica.name] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                statuses[replica.name] = answer
        return statuses, problems


async def _or_refused(answer: Awaitable[Any], replica: Replica) -> Any:
    """The answer. Raises Refused if the replica gives none."""
    try:
        return await answer
    except ReplicaUnreachable as error:
        raise Refused(f"replica {replica.name}: {error}") from error


def _path(trigger: ResourceView) -> str:
    return "/v1/triggers/" + "/".join(quote(trigger[part]) for part in ("namespace", "kind", "name"))
