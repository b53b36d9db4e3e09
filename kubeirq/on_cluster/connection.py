"""Connects to a cluster through a kubeconfig and a context, with the user's own rights."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from yaml import YAMLError

from controllers.cluster import api as server
from controllers.cluster.api import Api
from kubeirq.fabric_client import FabricUnreachable, Refused
from kubeirq.on_cluster.kubeconfig import has_kubeconfig

Object = dict[str, Any]

_CONNECT_SECONDS = 15
_ATTEMPTS = 10
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HEARTBEAT_SECONDS = 20  # proxies end connections that are silent for a minute, as while a function works
_LINE_MAX_BYTES = 8 * 1024 * 1024


class AccessDenied(Refused):
    """The API server does not accept the login, or the user lacks a right. The text names what is missing."""


class NotFound(Refused):
    """The API server knows no such object or kind."""


@dataclass(frozen=True)
class Cluster:
    """An open connection to the cluster of one context. Refusals of the API server raise AccessDenied or Refused."""

    client: ApiClient
    context: str
    namespace: str  # the default for names without one
    own_namespace: str = ""  # the one of the context, which a command without `-n` uses

    async def get(self, path: str, *, accept: str = "application/json") -> Object:
        """Repeats the request while the server answers 429, as it does while it starts to serve a new kind."""
        for attempt in range(1, _ATTEMPTS + 1):
            async with self.stream("GET", path, headers={"accept": accept}) as answer:
                status, body = answer.status, await answer.read()
            if status != 429 or attempt == _ATTEMPTS:
                break
            await asyncio.sleep(1)
        if status >= 400:
            raise refusal_of(status, _message(body))
        found: Object = json.loads(body)
        return found

    async def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """The objects of one namespace; without one, of all namespaces."""
        async with self._translated_errors():
            return await self._api.list(api_version, kind, namespace, labels)

    async def patch(
        self, path: str, body: Mapping[str, Any], content_type: str, query: Sequence[tuple[str, str]] = ()
    ) -> Object:
        async with self._translated_errors():
            return await self._api.request("PATCH", path, body=body, query=query, content_type=content_type)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None,
        query: Sequence[tuple[str, str]] = (),
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        """Sends bytes, and yields the answer with any status, to be read as it arrives."""
        url, login = await self._authenticated(method, path, query)
        async with self._translated_errors(), self._session.request(
            method, url, headers={**login, **(headers or {})}, data=body, allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS), **self._proxy_and_tls,
        ) as answer:  # fmt: skip
            yield answer

    async def lines(self, path: str, query: Sequence[tuple[str, str]] = ()) -> AsyncIterator[str]:
        """The lines of a text answer, as they arrive."""
        async with self.stream("GET", path, query=query) as answer:
            if answer.status >= 400:
                raise refusal_of(answer.status, _message(await answer.read()))
            rest = b""
            async for chunk in answer.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
                rest = rest[:_LINE_MAX_BYTES]
            if rest:
                yield rest.decode(errors="replace")

    @asynccontextmanager
    async def socket(
        self, path: str, query: Sequence[tuple[str, str]], protocol: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Opens a WebSocket. Raises WSServerHandshakeError with the API server's status."""
        url, login = await self._authenticated("GET", path, query)
        async with (
            self._translated_errors(),
            self._session.ws_connect(
                url,
                headers=login,
                protocols=(protocol,),
                max_msg_size=0,
                heartbeat=_HEARTBEAT_SECONDS,
                **self._proxy_and_tls,
            ) as found,
        ):
            yield found

    async def token(self) -> str:
        """The token of the login, empty if it has none: it may have a client certificate."""
        _, headers = await self._authenticated("GET", "/", ())
        found = next((text for name, text in headers.items() if name.lower() == "authorization"), "")
        return found.removeprefix("Bearer ") if found.startswith("Bearer ") else ""

    @property
    def _api(self) -> Api:
        return Api(self.client)

    @property
    def _session(self) -> aiohttp.ClientSession:
        rest = self.client.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()
        session: aiohttp.ClientSession = rest.pool_manager
        return session

    @property
    def _proxy_and_tls(self) -> dict[str, Any]:
        configuration = self.client.configuration
        options = {"proxy": configuration.proxy, "server_hostname": configuration.tls_server_name}
        return {name: value for name, value in options.items() if value}

    async def _authenticated(
        self, method: str, path: str, query: Sequence[tuple[str, str]]
    ) -> tuple[str, Mapping[str, str]]:
        """The complete URL, and the headers with the credentials."""
        _, url, login, *_ = await self.client.param_serialize(
            method, path, query_params=list(query), header_params={}, auth_settings=["BearerToken"]
        )
        return url, login

    @asynccontextmanager
    async def _translated_errors(self) -> AsyncIterator[None]:
        try:
            yield
        except server.Refused as error:
            raise refusal_of(error.status, str(error)) from error
        except aiohttp.WSServerHandshakeError:
            raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            host = self.client.configuration.host
            problem = str(error) or type(error).__name__
            raise FabricUnreachable(f"context {self.context}: {host} cannot be reached: {problem}") from error


def refusal_of(status: int, message: str) -> Refused:
    """The exception for an error answer of the API server."""
    if status == 401:
        return AccessDenied(
            "the API server does not accept your login (401); log in again, or choose another --context"
        )
    if status == 403:
        return AccessDenied(f"no permission: {message}")
    if status == 404:
        return NotFound(message)
    return Refused(message or f"the API server answered with status {status}")


@asynccontextmanager
async def connect(
    context: str | None = None, kubeconfig: Path | None = None, namespace: str | None = None
) -> AsyncIterator[Cluster]:
    """Connects to the cluster of that kubeconfig, else of $KUBECONFIG or ~/.kube/config, else of its own pod.

    Raises FabricUnreachable.
    """
    if context is None and kubeconfig is None and not has_kubeconfig() and _namespace_of_pod() is None:
        place = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise FabricUnreachable(
            f"there is no cluster: no kubeconfig at {place}; name one with --kubeconfig or $KUBECONFIG, "
            "or run the files on this machine with `kubeirq dev`"
        )
    configuration = Configuration()
    try:
        name, default_namespace = await _load(configuration, context, kubeconfig)
    except config.ConfigException as error:
        raise FabricUnreachable(_config_problem(str(error), context, kubeconfig)) from error
    except OSError as error:
        raise FabricUnreachable(f"{kubeconfig or 'kubeconfig'}: {error.strerror or error}") from error
    except (TypeError, ValueError, AttributeError, KeyError, YAMLError) as error:  # the loader read some other file
        raise FabricUnreachable(_config_problem("this is not a kubeconfig", context, kubeconfig)) from error
    async with ApiClient(configuration) as client:
        yield Cluster(client, name, namespace or default_namespace, default_namespace)


async def _load(configuration: Configuration, context: str | None, kubeconfig: Path | None) -> tuple[str, str]:
    """Fills in the configuration, and returns the names of the context and of its namespace."""
    if kubeconfig is None and context is None and (namespace := _namespace_of_pod()) and not has_kubeconfig():
        config.load_incluster_config(client_configuration=configuration)
        return "in-cluster", namespace
    if kubeconfig is not None:
        os.stat(kubeconfig)  # raises a clearer error than the loader
    loader = await config.load_kube_config(
        config_file=None if kubeconfig is None else str(kubeconfig),
        context=context,
        client_configuration=configuration,
    )
    found = loader.current_context
    return str(found["name"]), str(found["context"].get("namespace") or "default")


def _namespace_of_pod() -> str | None:
    """None if this process does not run in a pod."""
    try:
        return (_SERVICE_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        return None


def _config_problem(error: str, context: str | None, kubeconfig: Path | None) -> str:
    place = str(kubeconfig) if kubeconfig is not None else os.environ.get("KUBECONFIG") or "~/.kube/config"
    if context is not None and context in error:
        return f"{place}: no context {context!r}; `kubectl config get-contexts` lists them"
    return f"{place}: {error}"


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()[:500]
