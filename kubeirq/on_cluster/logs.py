"""What pods print, of several at once: the past in order, then what comes, also of pods that come later."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from kubeirq.fabric_client import NotRunning, Refused
from kubeirq.on_cluster.connection import Cluster, Object

_LOOK_SECONDS = 2.0  # for pods that have come
_MOST_LINES = 20_000  # of the past, that are looked through for what is wanted

Chosen = Callable[[str], str | None]  # how a line is shown; None: it is not


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


async def lines_of_pods(
    cluster: Cluster, namespace: str, labels: Mapping[str, str], tail: int, follow: bool, chosen: Chosen | None = None
) -> AsyncIterator[str]:
    """At most `tail` of the past of each pod. Lines of several have their pod's name before them.

    Raises Refused for no pod, unless pods to come are waited for.
    """
    pods = await _pods(cluster, namespace, labels)
    if not pods and not follow:
        raise Refused(f"no pod in namespace {namespace} has the labels {_text(labels)}")
    if not follow or chosen is not None:
        for log in map(log_of, pods):
            try:
                lines = await past_lines(cluster, log, tail, chosen)
            except Refused as error:
                if len(pods) == 1 and not follow:
                    raise
                lines = [f"({error})"]
            for line in lines:
                yield _prefixed(log, line, several=len(pods) > 1)
    if follow:
        # what is chosen from was read above; what is not comes with what follows, so that nothing is lost between
        past = {log_of(pod): tail if chosen is None else 0 for pod in pods}
        names = {log.pod for log in past}
        async with aclosing(_followed(cluster, namespace, labels, past, chosen)) as followed:
            async for log, line in followed:
                names.add(log.pod)
                yield _prefixed(log, line, several=len(names) > 1)


async def past_lines(cluster: Cluster, log: PodLog, tail: int, chosen: Chosen | None = None) -> list[str]:
    """The last ones; of a container that has just started again, and printed nothing, those of the run before.

    Raises Refused, NoRight.
    """
    most = tail if chosen is None else _MOST_LINES
    query = [("container", log.container), ("tailLines", str(most))]
    lines = [line async for line in cluster.lines(log.path, query)]
    if not lines and tail and log.restarts:
        with suppress(Refused):  # it may not be kept any more
            lines = [line async for line in cluster.lines(log.path, [*query, ("previous", "true")])]
    if chosen is not None:
        lines = [shown for line in lines if (shown := chosen(line)) is not None]
    return lines[-tail:] if tail else []


async def _followed(
    cluster: Cluster, namespace: str, labels: Mapping[str, str], past: Mapping[PodLog, int], chosen: Chosen | None
) -> AsyncGenerator[tuple[PodLog, str], None]:
    """Lines to come; of those that are there now as many of the past, of those that come later all."""
    found: asyncio.Queue[tuple[PodLog, str]] = asyncio.Queue(1000)
    readers: dict[PodLog, asyncio.Task[None]] = {}

    async def read(log: PodLog) -> None:
        query = [("container", log.container), ("follow", "true")]
        query += [("tailLines", str(past[log]))] if log in past else []
        try:
            async for line in cluster.lines(log.path, query):
                shown = line if chosen is None else chosen(line)
                if shown is not None:
                    await found.put((log, shown))
        except (Refused, NotRunning):
            await asyncio.sleep(_LOOK_SECONDS)
            del readers[log]  # it is about to start, or gone: that shows when it is looked for again

    async def look() -> None:
        while True:
            for log in map(log_of, await _pods(cluster, namespace, labels)):
                if log not in readers:
                    readers[log] = asyncio.create_task(read(log))
            await asyncio.sleep(_LOOK_SECONDS)

    looking = asyncio.create_task(look())
    try:
        while True:
            getting = asyncio.create_task(found.get())
            await asyncio.wait({getting, looking}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                looking.result()  # raises what went wrong
            yield getting.result()
    finally:
        tasks = [looking, *readers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def log_of(pod: Object) -> PodLog:
    """Of the container that has something to tell: one that failed before the function's own could start, else that."""
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
    """Of an init container: it does not end well."""
    ends = [container.get(state, {}).get("terminated", {}) for state in ("state", "lastState")]
    return not container.get("ready") and any(end.get("exitCode", 0) != 0 for end in ends)


async def _pods(cluster: Cluster, namespace: str, labels: Mapping[str, str]) -> Sequence[Object]:
    pods = await cluster.list("v1", "Pod", namespace, labels)
    return sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def _prefixed(log: PodLog, line: str, *, several: bool) -> str:
    return f"{log.pod}  {line}" if several else line


def _text(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())
