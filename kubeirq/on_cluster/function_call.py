"""Calls a function from outside of its cluster.

The first way is a port-forward to a ready pod. Without the right to it, the call goes through the API server's proxy of
the Service, which a NetworkPolicy may keep out.
"""

import json
import random
from collections.abc import Mapping

import aiohttp

from controllers.functions.status import FUNCTION_LABEL, PORT, url_of
from kubeirq.fabric_client import Answer, Refused
from kubeirq.on_cluster.connection import AccessDenied, Cluster, Object
from kubeirq.on_cluster.port_forward import NotForwarded, forwarded, why


async def call_function(cluster: Cluster, namespace: str, name: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """POSTs to the function. Raises Refused if it cannot be reached, AccessDenied if no way is allowed."""
    try:
        return await _forwarded(cluster, namespace, name, headers, body)
    except (AccessDenied, NotForwarded) as error:
        return await _proxied(cluster, namespace, name, headers, body, str(error))


async def _forwarded(cluster: Cluster, namespace: str, name: str, headers: Mapping[str, str], body: bytes) -> Answer:
    pods = [pod for pod in await cluster.list("v1", "Pod", namespace, {FUNCTION_LABEL: name}) if _serves(pod)]
    if not pods:
        raise NotForwarded(f"no pod of {name} is ready")
    pod = random.choice(pods)["metadata"]["name"]
    async with forwarded(cluster, namespace, pod, PORT) as forward:
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(forward.socket))) as session,
                session.post(
                    f"{url_of(namespace, name)}/", headers=headers, data=body, allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as answer,
            ):  # fmt: skip
                return await _answer_of(answer)
        except (aiohttp.ClientError, OSError) as error:
            raise Refused(f"the function gave no answer: pod {pod}: {why(forward.problems, error)}") from error


async def _proxied(
    cluster: Cluster, namespace: str, name: str, headers: Mapping[str, str], body: bytes, not_forwarded: str
) -> Answer:
    """`not_forwarded` says why the call takes this way."""
    if "authorization" in headers:
        raise Refused(
            f"--header authorization needs a port-forward, because it would replace your login at the API server; "
            f"{not_forwarded}"
        )
    path = f"/api/v1/namespaces/{namespace}/services/{name}:{PORT}/proxy/"
    async with cluster.stream("POST", path, headers=headers, body=body) as answer:
        found = await _answer_of(answer)
    message = _of_api_server(found)
    if message is None:
        return found
    if found.status == 403:
        raise AccessDenied(f"{not_forwarded}; nor create for services/proxy: {message}")
    raise Refused(
        f"the function cannot be reached: {message}; a NetworkPolicy may keep the API server out, "
        f"and a port-forward, which passes it, was not possible: {not_forwarded}"
    )


async def _answer_of(answer: aiohttp.ClientResponse) -> Answer:
    return Answer(answer.status, await answer.read(), answer.headers.get("kubeirq-error", ""))


def _serves(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    is_ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return is_ready and "deletionTimestamp" not in pod["metadata"]


def _of_api_server(answer: Answer) -> str | None:
    """The message, if the answer is an error of the API server and not the function's own."""
    if answer.status < 400:
        return None
    try:
        found = json.loads(answer.body)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("kind") != "Status" or found.get("apiVersion") != "v1":
        return None
    return str(found.get("message"))
