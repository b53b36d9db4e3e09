"""Reads the logs of several pods at once: the past lines in order, then new lines, also of pods that start later."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from kubeirq.fabric_client import FabricUnreachable, Refused
from kubeirq.on_cluster.connection import Cluster, Object
from kubeirq.output.fabric_log_lines import printed_record

_TIMES = [("timestamps", "true")]
_POLL_SECONDS = 2.0  # between two searches for new pods
_MAX_FILTERED_LINES = 20_000  # past lines that a filter reads, in each pod

Record = dict[str, Any]
LineFilter = Callable[[str], Record | None]  # returns the record to show, or None to leave the line out


@dataclass(frozen=True)
class PodLog:
    """The output of one run of a container."""

    namespace: str
    pod: str
    container: str
    restarts: int = 0

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}/log"


async def pod_log_records(
    cluster: Cluster,
    namespace: str,
    labels: Mapping[str, str],
    tail: int,
    follow: bool,
    line_filter: LineFilter | None = None,
) -> AsyncIterator[Record]:
    """At most `tail` past records of each pod: its lines with their times, or what the filter makes of a line.

    If there are several pods, each record names its own. Raises Refused if there is no pod, unless `follow` waits for
    one.
    """
    pods = await _pods(cluster, namespace, labels)
    if not pods and not follow:
        raise Refused(f"no pod in namespace {namespace} has the labels {_text(labels)}")
    if not follow or line_filter is not None:
        for log in map(log_of, pods):
            try:
                records = await _past_records(cluster, log, tail, line_filter)
            except Refused as error:
                if len(pods) == 1 and not follow:
                    raise
                records = [{"line": f"({error})"}]
            for record in records:
                yield _with_pod(log, record, several=len(pods) > 1)
    if follow:
        # With a filter, the past lines were read above. Without one, they come from the same request as the new lines,
        # so that no line between the two is lost
        past = {log_of(pod): tail if line_filter is None else 0 for pod in pods}
        names = {log.pod for log in past}
        async with aclosing(_followed(cluster, namespace, labels, past, line_filter)) as followed:
            async for log, record in followed:
                names.add(log.pod)
                yield _with_pod(log, record, several=len(names) > 1)


async def past_lines(cluster: Cluster, log: PodLog, tail: int, *, with_times: bool = False) -> list[str]:
    """The last lines. For a container that has restarted and printed nothing yet, those of the previous run.

    Raises Refused, AccessDenied.
    """
    query = [("container", log.container), ("tailLines", str(tail)), *(_TIMES if with_times else ())]
    lines = [line async for line in cluster.lines(log.path, query)]
    if not lines and tail and log.restarts:
        with suppress(Refused):  # the previous log may be gone
            lines = [line async for line in cluster.lines(log.path, [*query, ("previous", "true")])]
    return lines


async def _past_records(cluster: Cluster, log: PodLog, tail: int, line_filter: LineFilter | None) -> list[Record]:
    if line_filter is None:
        lines = await past_lines(cluster, log, tail, with_times=True)
        return list(map(printed_record, lines))
    lines = await past_lines(cluster, log, _MAX_FILTERED_LINES if tail else 0)
    records = [record for line in lines if (record := line_filter(line)) is not None]
    return records[-tail:] if tail else []


async def _followed(
    cluster: Cluster,
    namespace: str,
    labels: Mapping[str, str],
    past: Mapping[PodLog, int],
    line_filter: LineFilter | None,
) -> AsyncGenerator[tuple[PodLog, Record], None]:
    """New lines of all pods: after as many past lines as `past` says, or all lines of pods that start later."""
    found: asyncio.Queue[tuple[PodLog, Record]] = asyncio.Queue(1000)
    readers: dict[PodLog, asyncio.Task[None]] = {}

    async def read(log: PodLog) -> None:
        query = [("container", log.container), ("follow", "true"), *(_TIMES if line_filter is None else ())]
        query += [("tailLines", str(past[log]))] if log in past else []
        try:
            async for line in cluster.lines(log.path, query):
                record = printed_record(line) if line_filter is None else line_filter(line)
                if record is not None:
                    await found.put((log, record))
        except (Refused, FabricUnreachable):
            await asyncio.sleep(_POLL_SECONDS)
            del readers[log]  # the container is not started yet, or is gone; the next search finds out

    async def watch_pods() -> None:
        while True:
            for log in map(log_of, await _pods(cluster, namespace, labels)):
                if log not in readers:
                    readers[log] = asyncio.create_task(read(log))
            await asyncio.sleep(_POLL_SECONDS)

    watching = asyncio.create_task(watch_pods())
    try:
        while True:
            getting = asyncio.create_task(found.get())
            await asyncio.wait({getting, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                watching.result()  # raises the error that ended it
            yield getting.result()
    finally:
        tasks = [watching, *readers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def log_of(pod: Object) -> PodLog:
    """The log of an init container that failed, if there is one; else of the function's own container."""
    metadata, status = pod["metadata"], pod.get("status", {})
    names = [container["name"] for container in pod["spec"]["containers"]]
    own = "function" if "function" in names else names[0]
    states = {
        one["name"]: one for one in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", []))
    }
    failing = next((name for name, one in states.items() if name not in names and _has_failed(one)), None)
    name = failing or own
    return PodLog(metadata["namespace"], metadata["name"], name, states.get(name, {}).get("restartCount", 0))


def _has_failed(container: Mapping[str, Any]) -> bool:
    """Whether the init container ended with an error."""
    ends = [container.get(state, {}).get("terminated", {}) for state in ("state", "lastState")]
    return not container.get("ready") and any(end.get("exitCode", 0) != 0 for end in ends)


async def _pods(cluster: Cluster, namespace: str, labels: Mapping[str, str]) -> Sequence[Object]:
    pods = await cluster.list("v1", "Pod", namespace, labels)
    return sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def _with_pod(log: PodLog, record: Record, *, several: bool) -> Record:
    return {"pod": log.pod, **record} if several else record


def _text(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())
