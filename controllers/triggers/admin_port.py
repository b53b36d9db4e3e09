"""The admin port: for the other replicas, and for users with the rights to the admin API.

A replica asks there what this one serves. `kubeirq` reaches the admin API through the API server: the port
authenticates and authorizes each request of a user, and passes it on to the admin API on the unix socket of this
replica, or to the port of the replica that the path names, since a Service sends a request to any of them.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from controllers.cluster.api import Refused
from controllers.triggers.admin_rights import Need, Rights, User, need_of
from controllers.triggers.peers import ANSWER_SECONDS, PATH
from controllers.triggers.peers import TOKEN_HEADER as REPLICA_TOKEN_HEADER
from controllers.triggers.served import ServedTriggers
from controllers.triggers.shared_certificate import SharedCertificate
from trigger_sources.observe.admin import json_answer

log = logging.getLogger(__name__)

TOKEN_HEADER = "kubeirq-token"  # noqa: S105  the API server removes `Authorization` from a request that it passes on
_BODY_MAX_BYTES = 8 * 1024 * 1024
_NAME_SECONDS = 5.0

Addresses = Callable[[], Coroutine[Any, Any, list[str]]]  # the IP addresses of all replicas


class _Answer(Exception):
    """An answer without the admin API: a refusal."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class AdminPort:
    """Made, used and closed in one event loop. Without `rights` it serves the other replicas only.

    `triggers` are those that this replica serves.
    """

    def __init__(
        self,
        rights: Rights | None,
        kind: str,
        *,
        replica: str,
        triggers: ServedTriggers,
        admin_socket: Path,
        certificate: SharedCertificate,
        port: int,
        addresses: Addresses,
    ) -> None:
        self._rights = rights
        self._kind = kind
        self._replica = replica
        self._triggers = triggers
        self._socket = admin_socket
        self._certificate = certificate
        self._port = port
        self._addresses = addresses
        self._own: aiohttp.ClientSession
        self._peers: aiohttp.ClientSession

    @asynccontextmanager
    async def served(self, host: str) -> AsyncIterator[int]:
        """Serves while the context is open, and yields the port."""
        application = web.Application(client_max_size=_BODY_MAX_BYTES, middlewares=[_refusals_as_json])
        application.router.add_get(PATH, self._changes)
        if self._rights is not None:
            application.add_routes(
                [
                    web.get("/v1/replica", self._name),
                    web.get("/v1/replicas", self._list),
                    web.route("*", "/v1/replicas/{replica}/v1/status", self._status),
                    web.route("*", "/v1/replicas/{replica}{path:/v1/triggers/.*}", self._trigger),
                ]
            )
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1, handler_cancellation=True)
        await runner.setup()
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self._socket))) as own,
                aiohttp.ClientSession() as peers,
            ):
                self._own, self._peers = own, peers
                await web.TCPSite(runner, host, self._port, ssl_context=self._certificate.to_serve).start()
                self._port = int(runner.addresses[0][1])
                yield self._port
        finally:
            self._triggers.close()
            await runner.cleanup()

    # --- requests

    async def _changes(self, request: web.Request) -> web.Response:
        """What this replica serves, for a replica: it has the key."""
        if not self._certificate.is_token(request.headers.get(REPLICA_TOKEN_HEADER, "")):
            raise _Answer(401, f"the header {REPLICA_TOKEN_HEADER} has no token of a replica with the same certificate")
        return json_answer(await self._triggers.answer(request.query.get("since", ""), ANSWER_SECONDS))

    async def _name(self, _: web.Request) -> web.Response:
        return json_answer({"replica": self._replica})

    async def _list(self, request: web.Request) -> web.Response:
        """The names of the replicas, for users of the API server."""
        await self._user(request)
        return json_answer({"replicas": sorted({self._replica, *await self._replicas()})})

    async def _status(self, request: web.Request) -> web.StreamResponse:
        """The flows of the namespaces that the user may see: of one, or of all without `namespace`."""
        user, namespace = await self._user(request), request.query.get("namespace", "")
        await self._check(user, Need("get", self._kind, "flows", namespace))
        if request.method != "GET":
            raise _Answer(405, "only GET is possible here")
        if request.match_info["replica"] != self._replica:
            return await self._pass_on(request, "/v1/status", {"namespace": namespace} if namespace else {})
        async with self._own.get("http://admin/v1/status") as answer:
            status = orjson.loads(await answer.read())
        if namespace:
            status["triggers"] = [found for found in status["triggers"] if found["namespace"] == namespace]
        return json_answer(status)

    async def _trigger(self, request: web.Request) -> web.StreamResponse:
        user, path = await self._user(request), request.match_info["path"]
        need = need_of(request.method, path)
        if need is None:
            raise _Answer(404, f"no request {request.method} {path}")
        await self._check(user, need)
        if need.verb != "get":
            log.info("admin request", extra={"user": user.name, "method": request.method, "path": path})
        return await self._pass_on(request, path, request.query)

    async def _user(self, request: web.Request) -> User:
        token = request.headers.get(TOKEN_HEADER, "").removeprefix("Bearer ").strip()
        assert self._rights is not None
        user = await self._rights.user_of(token) if token else None
        if user is None:
            raise _Answer(401, f"the header {TOKEN_HEADER} has no token that the API server accepts; log in again")
        return user

    async def _check(self, user: User, need: Need) -> None:
        assert self._rights is not None
        if not await self._rights.has(user, need):
            raise _Answer(403, f"no permission: {user.name} needs {need}")

    async def _pass_on(self, request: web.Request, path: str, query: Mapping[str, str]) -> web.StreamResponse:
        """Answers as the admin API of the replica does, whole or line by line."""
        replica, body = request.match_info["replica"], await request.read()
        headers = {"content-type": request.content_type}
        if replica == self._replica:
            session, url = self._own, f"http://admin{path}"
        else:
            address = (await self._replicas()).get(replica)
            if address is None:
                raise _Answer(404, f"no replica {replica!r}")
            session, url = self._peers, f"https://{_host(address)}:{self._port}/v1/replicas/{replica}{path}"
            headers[TOKEN_HEADER] = request.headers[TOKEN_HEADER]
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_NAME_SECONDS)  # a redrive may take long
        try:
            async with session.request(
                request.method,
                url,
                params=dict(query),
                data=body,
                headers=headers,
                timeout=timeout,
                ssl=self._certificate.to_ask,
            ) as answer:
                response = web.StreamResponse(status=answer.status, headers={"content-type": answer.content_type})
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except aiohttp.ClientConnectorError as error:
            raise _Answer(502, f"replica {replica} cannot be reached: {error}") from error

    async def _replicas(self) -> dict[str, str]:
        """The address of each replica that answers."""
        addresses = await self._addresses()
        names = await asyncio.gather(*(self._name_at(address) for address in addresses))
        return {name: address for name, address in zip(names, addresses, strict=True) if name}

    async def _name_at(self, address: str) -> str:
        timeout = aiohttp.ClientTimeout(total=_NAME_SECONDS)
        try:
            url, tls = f"https://{_host(address)}:{self._port}/v1/replica", self._certificate.to_ask
            async with self._peers.get(url, timeout=timeout, ssl=tls) as answer:
                return str((await answer.json())["replica"])
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
            log.info("replica does not answer", extra={"address": address, "problem": str(error) or repr(error)})
            return ""


def addresses_of(host: str) -> Addresses:
    """Resolves a name, as that of a headless Service, to all its addresses."""

    async def resolve() -> list[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            log.warning("replicas not found", extra={"host": host, "problem": str(error)})
            return []
        return sorted({str(address[0]) for *_, address in found})

    return resolve


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@web.middleware
async def _refusals_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except _Answer as answer:
        return json_answer({"error": str(answer)}, answer.status)
    except Refused as error:
        log.warning("review failed", extra={"problem": str(error)})
        return json_answer({"error": f"the API server does not review the request: {error}"}, 503)
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        return json_answer({"error": str(error) or type(error).__name__}, 503)
    except web.HTTPException as error:
        return json_answer({"error": error.reason}, error.status)
