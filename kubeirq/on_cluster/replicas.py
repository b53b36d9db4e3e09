"""The replicas of a trigger controller: finds them, and sends requests to each.

The way is the admin port of the controllers, behind the API server's proxy, with the token of the user's login. A login
without a token, as one with a client certificate, and a release without the port need `exec` into the pods.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from kubeirq.fabric_client import Refused
from kubeirq.on_cluster.connection import AccessDenied, Cluster, Object

_SYSTEM_NAMESPACE = "kubeirq"  # where the documentation installs the chart
_TOKEN_HEADER = "kubeirq-token"  # noqa: S105  of controllers.triggers.admin_port
_SERVICE_LABELS = {"app.kubernetes.io/name": "kubeirq", "kubeirq.dev/admin": "true"}
COMMAND = ("python3", "-m", "controllers.ask")
_PROTOCOL = "v4.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _ERROR = 0, 1, 2, 3
_END = "."
_ANSWER_SECONDS = 30


class ReplicaUnreachable(Exception):
    """This replica gives no complete answer now. The text says why."""


@dataclass(frozen=True)
class Replica:
    """One pod of a controller."""

    namespace: str
    name: str
    container: str
    problem: str  # why it cannot answer; empty if it runs
    service: str = ""  # the path of the admin port behind the API server; empty: requests need `exec`


async def replicas_of(cluster: Cluster, component: str, system_namespace: str | None) -> list[Replica]:
    """The replicas of this controller, sorted by name. Raises Refused if there are none."""
    if await cluster.token() and (service := await _admin_service(cluster, component, system_namespace)) is not None:
        namespace, path = service
        try:
            answer = b"".join([part async for part in _proxied(cluster, path, "GET", "/v1/replicas", None, {})])
        except ReplicaUnreachable as error:
            raise Refused(f"no {component} controller answers in namespace {namespace}: {error}") from error
        names = json.loads(answer)
        return [Replica(namespace, name, "", "", path) for name in names["replicas"]]
    return await _pods_of(cluster, component, system_namespace)


async def _admin_service(cluster: Cluster, component: str, system_namespace: str | None) -> tuple[str, str] | None:
    """The namespace of the controller's Service for the admin API, and its path. None: there is none to be seen."""
    labels = {**_SERVICE_LABELS, "app.kubernetes.io/component": component}
    for namespace in [system_namespace] if system_namespace is not None else [None, _SYSTEM_NAMESPACE]:
        try:
            services = await cluster.list("v1", "Service", namespace, labels)
        except AccessDenied:
            continue
        for service in services:
            where, name = service["metadata"]["namespace"], service["metadata"]["name"]
            return where, f"/api/v1/namespaces/{where}/services/https:{name}:admin/proxy"
    return None


async def _pods_of(cluster: Cluster, component: str, system_namespace: str | None) -> list[Replica]:
    labels = {"app.kubernetes.io/name": "kubeirq", "app.kubernetes.io/component": component}
    try:
        pods = await cluster.list("v1", "Pod", system_namespace, labels)
    except AccessDenied as error:
        if system_namespace is not None:
            raise
        raise AccessDenied(f"{error}; give the namespace of the controllers with --system-namespace") from error
    found = [_replica_of(pod) for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    if not found:
        where = f"in namespace {system_namespace}" if system_namespace else "in any namespace"
        raise Refused(
            f"no {component} controller runs {where}; "
            "see `kubectl get pods -A -l app.kubernetes.io/name=kubeirq`, or give its namespace with --system-namespace"
        )
    return sorted(found, key=lambda replica: replica.name)


async def request(cluster: Cluster, replica: Replica, method: str, path: str, body: Any = None, **query: str) -> Any:
    """The JSON of its answer. Raises ReplicaUnreachable, AccessDenied, and Refused if it refuses the request."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            parts = [part async for part in _answer(cluster, replica, method, path, body, query)]
    except TimeoutError as error:
        raise ReplicaUnreachable(f"no answer within {_ANSWER_SECONDS} s") from error
    return json.loads(b"".join(parts))


async def stream_lines(
    cluster: Cluster, replica: Replica, method: str, path: str, body: Any = None
) -> AsyncIterator[Any]:
    """The JSON object of each line of the answer, as it arrives. Raises the same errors as `request`."""
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
    """The parts of the body as they arrive. Raises Refused for an answer with an error status."""
    if replica.problem:
        raise ReplicaUnreachable(replica.problem)
    if replica.service:
        target = f"/v1/replicas/{quote(replica.name)}{path}"
        async with aclosing(_proxied(cluster, replica.service, method, target, body, query)) as found:
            async for part in found:
                yield part
        return
    encoded = base64.b64encode(json.dumps(body).encode()).decode()
    message = {"method": method, "path": path, "query": dict(query), "body": encoded}
    async with aclosing(_lines(cluster, replica, json.dumps(message).encode() + b"\n")) as lines:
        head = json.loads(await anext(lines))
        if "error" in head:
            raise ReplicaUnreachable(head["error"])
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


async def _proxied(
    cluster: Cluster, service: str, method: str, path: str, body: Any, query: Mapping[str, str]
) -> AsyncGenerator[bytes, None]:
    """The parts of the admin port's answer as they arrive. Raises AccessDenied, ReplicaUnreachable, Refused."""
    headers = {_TOKEN_HEADER: await cluster.token(), "content-type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    async with cluster.stream(
        method, f"{service}{path}", headers=headers, body=content, query=list(query.items())
    ) as answer:
        if answer.status >= 400:
            raise _refusal(answer.status, await answer.read())
        async for part in answer.content.iter_any():
            yield part


def _refusal(status: int, body: bytes) -> Exception:
    """The exception for an error answer, of the API server's proxy or of the admin port."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return ReplicaUnreachable(f"the API server's proxy answered with status {status}")
    if found.get("kind") == "Status":  # of the API server
        message = str(found.get("message"))
        if status in (401, 403):
            return AccessDenied(f"no permission: {message}; the chart's value adminApi.subjects names who may connect")
        return ReplicaUnreachable(message)
    error = str(found.get("error", f"status {status}"))
    if status in (401, 403):
        return AccessDenied(error)
    return ReplicaUnreachable(error) if status in (502, 504) else Refused(error)


async def _lines(cluster: Cluster, replica: Replica, request: bytes) -> AsyncGenerator[str, None]:
    """Runs the command in the pod with the request as its input, and yields the lines of its output.

    Raises ReplicaUnreachable, AccessDenied.
    """
    path = f"/api/v1/namespaces/{replica.namespace}/pods/{replica.name}/exec"
    query = [("container", replica.container), *(("command", word) for word in COMMAND)]
    query += [(stream, "true") for stream in ("stdin", "stdout", "stderr")]
    rest, errors = b"", b""
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
                    errors = (errors + data)[-2000:]
                elif channel == _ERROR and (problem := _failure(data, errors)):
                    raise ReplicaUnreachable(problem)
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (401, 403):
            raise AccessDenied(
                f"no permission: get and create for pods/exec in namespace {replica.namespace} are needed: your login "
                "has no token, or the controllers have no admin port; log in with a token, or ask for these rights"
            ) from error
        raise ReplicaUnreachable(f"the API server answered exec with status {error.status}") from error
    raise ReplicaUnreachable("its answer ended early")


def _failure(status: bytes, errors: bytes) -> str:
    """Why the command failed; empty if it succeeded."""
    found: Object = json.loads(status)
    if found.get("status") == "Success":
        return ""
    last = errors.decode(errors="replace").strip().splitlines()[-1:]
    return " | ".join([str(found.get("message", "the command failed")), *last])


def _replica_of(pod: Object) -> Replica:
    metadata, status = pod["metadata"], pod.get("status", {})
    phase = status.get("phase", "Unknown")
    waiting = [
        f"{one['state']['waiting'].get('reason', '')} {one['state']['waiting'].get('message', '')}".strip()
        for one in status.get("containerStatuses", [])
        if "waiting" in one.get("state", {})
    ]
    problem = waiting[0] if waiting else "" if phase == "Running" else f"its pod is {phase}"
    return Replica(metadata["namespace"], metadata["name"], pod["spec"]["containers"][0]["name"], problem)


def _reason(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {status}"


def component_of(kind: str) -> str:
    """The name of the controller for a trigger's kind: `kafka` for KafkaTrigger."""
    return kind.lower().removesuffix("trigger")
