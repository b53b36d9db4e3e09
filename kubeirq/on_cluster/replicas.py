"""The replicas of a trigger's controller: found by their labels, asked one by one through `exec`."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp

from kubeirq.fabric_client import Refused
from kubeirq.on_cluster.connection import Cluster, NoRight, Object

ASK = ("python3", "-m", "controllers.ask")
_PROTOCOL = "v4.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _ERROR = 0, 1, 2, 3
_END = "."
_ANSWER_SECONDS = 30  # for what is answered at once


class NoAnswer(Exception):
    """This replica cannot say anything just now. The text says why."""


@dataclass(frozen=True)
class Replica:
    """One pod of a controller."""

    namespace: str
    name: str
    container: str
    problem: str  # why it cannot be asked; empty: it runs


async def replicas_of(cluster: Cluster, component: str, system_namespace: str | None) -> list[Replica]:
    """The pods of this controller, by name. Raises Refused, which says what to do, when there are none."""
    labels = {"app.kubernetes.io/name": "kubeirq", "app.kubernetes.io/component": component}
    try:
        pods = await cluster.list("v1", "Pod", system_namespace, labels)
    except NoRight as error:
        if system_namespace is not None:
            raise
        raise NoRight(f"{error}; name the namespace of kubeirq itself with --system-namespace") from error
    found = [_replica_of(pod) for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    if not found:
        where = f"in namespace {system_namespace}" if system_namespace else "in any namespace"
        raise Refused(
            f"no {component} controller runs {where}: `kubectl get pods -A -l app.kubernetes.io/name=kubeirq`"
        )
    return sorted(found, key=lambda replica: replica.name)


async def ask(cluster: Cluster, replica: Replica, method: str, path: str, body: Any = None, **query: str) -> Any:
    """What it answers, as JSON. Raises NoAnswer, NoRight, and Refused when it says no."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            parts = [part async for part in _answer(cluster, replica, method, path, body, query)]
    except TimeoutError as error:
        raise NoAnswer(f"nothing within {_ANSWER_SECONDS} s") from error
    return json.loads(b"".join(parts))


async def ask_for_lines(
    cluster: Cluster, replica: Replica, method: str, path: str, body: Any = None
) -> AsyncIterator[Any]:
    """The objects that come as lines, as they come. Raises what `ask` raises."""
    rest = b""
    async with aclosing(_answer(cluster, replica, method, path, body, {})) as parts:
        async for part in parts:
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                if line.strip():
                    yield json.loads(line)


async def _answer(
    cluster: Cluster, replica: Replica, method: str, path: str, body: Any, query: Mapping[str, str]
) -> AsyncGenerator[bytes, None]:
    """The body of a good answer, part by part; a bad one is raised."""
    if replica.problem:
        raise NoAnswer(replica.problem)
    encoded = base64.b64encode(json.dumps(body).encode()).decode()
    request = {"method": method, "path": path, "query": dict(query), "body": encoded}
    async with aclosing(_lines(cluster, replica, json.dumps(request).encode() + b"\n")) as lines:
        head = json.loads(await anext(lines))
        if "error" in head:
            raise NoAnswer(head["error"])
        is_bad = head["status"] >= 400
        parts = []
        async for line in lines:
            if line == _END:
                break
            if is_bad:
                parts.append(base64.b64decode(line))
            else:
                yield base64.b64decode(line)
    if is_bad:
        raise Refused(_reason(b"".join(parts), head["status"]))


async def _lines(cluster: Cluster, replica: Replica, request: bytes) -> AsyncGenerator[str, None]:
    """What the command in the pod writes, line by line, having read the request. Raises NoAnswer, NoRight."""
    path = f"/api/v1/namespaces/{replica.namespace}/pods/{replica.name}/exec"
    query = [("container", replica.container), *(("command", word) for word in ASK)]
    query += [(stream, "true") for stream in ("stdin", "stdout", "stderr")]
    rest, complaints = b"", b""
    try:
        async with cluster.socket(path, query, _PROTOCOL) as socket:
            await socket.send_bytes(bytes([_STDIN]) + request)
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                    continue
                channel, data = message.data[0], message.data[1:]
                if channel == _STDOUT:
                    *whole, rest = (rest + data).split(b"\n")
                    for line in whole:
                        yield line.decode()
                elif channel == _STDERR:
                    complaints = (complaints + data)[-2000:]
                elif channel == _ERROR and (problem := _failure(data, complaints)):
                    raise NoAnswer(problem)
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (401, 403):
            raise NoRight(
                f"no right: pods/exec (get and create) in namespace {replica.namespace} is needed: the controllers are "
                "asked inside their pods; the chart's Role <release>-operator gives it"
            ) from error
        raise NoAnswer(f"exec is answered with {error.status}") from error
    raise NoAnswer("its answer broke off")


def _failure(status: bytes, complaints: bytes) -> str:
    """Why the command failed; empty: it did not."""
    found: Object = json.loads(status)
    if found.get("status") == "Success":
        return ""
    last = complaints.decode(errors="replace").strip().splitlines()[-1:]
    return " | ".join([str(found.get("message", "the command failed")), *last])


def _replica_of(pod: Object) -> Replica:
    metadata, status = pod["metadata"], pod.get("status", {})
    phase = status.get("phase", "Unknown")
    waiting = [
        f"{one['state']['waiting'].get('reason', '')} {one['state']['waiting'].get('message', '')}".strip()
        for one in status.get("containerStatuses", [])
        if "waiting" in one.get("state", {})
    ]
    problem = waiting[0] if waiting else "" if phase == "Running" else f"it is {phase}"
    return Replica(metadata["namespace"], metadata["name"], pod["spec"]["containers"][0]["name"], problem)


def _reason(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {status}"


def component_of(kind: str) -> str:
    """The controller of a trigger's kind: `kafka` is KafkaTrigger's."""
    return kind.lower().removesuffix("trigger")
