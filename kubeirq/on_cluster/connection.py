"""A cluster as the person at the command line reaches it: by kubeconfig and context, with their own rights."""

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
from kubeirq.fabric_client import NotRunning, Refused
from kubeirq.on_cluster.kubeconfig import has_kubeconfig

Object = dict[str, Any]

_CONNECT_SECONDS = 15
_ATTEMPTS = 10
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LINE_MAX_BYTES = 8 * 1024 * 1024


class NoRight(Refused):
    """The API server knows who asks, and does not let them. The text has verb, resource and namespace."""


@dataclass(frozen=True)
class Cluster:
    """One context of a kubeconfig, open. What the API server refuses is raised as NoRight or Refused."""

    client: ApiClient
    context: str
    namespace: str  # where to look when a name says nothing else

    async def get(self, path: str, *, accept: str = "application/json") -> Object:
        """A server that asks to come back later, as it does while it starts to serve a kind, is asked again."""
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
        """Without a namespace: of all."""
        async with self._speaking():
            return await self._api.list(api_version, kind, namespace, labels)

    async def patch(
        self, path: str, body: Mapping[str, Any], content_type: str, query: Sequence[tuple[str, str]] = ()
    ) -> Object:
        async with self._speaking():
            return await self._api.request("PATCH", path, body=body, query=query, content_type=content_type)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None,
        query: Sequence[tuple[str, str]] = (),
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        """An exchange of bytes, of whatever status, read as it comes."""
        url, login = await self._prepared(method, path, query)
        async with self._speaking(), self._session.request(
            method, url, headers={**login, **(headers or {})}, data=body, allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS), **self._ways,
        ) as answer:  # fmt: skip
            yield answer

    async def lines(self, path: str, query: Sequence[tuple[str, str]] = ()) -> AsyncIterator[str]:
        """The lines of a text, as they come."""
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
        """A web socket. Raises WSServerHandshakeError with the API server's status."""
        url, login = await self._prepared("GET", path, query)
        async with (
            self._speaking(),
            self._session.ws_connect(url, headers=login, protocols=(protocol,), max_msg_size=0, **self._ways) as found,
        ):
            yield found

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
    def _ways(self) -> dict[str, Any]:
        configuration = self.client.configuration
        ways = {"proxy": configuration.proxy, "server_hostname": configuration.tls_server_name}
        return {name: value for name, value in ways.items() if value}

    async def _prepared(
        self, method: str, path: str, query: Sequence[tuple[str, str]]
    ) -> tuple[str, Mapping[str, str]]:
        """The whole address, and the headers that log in."""
        _, url, login, *_ = await self.client.param_serialize(
            method, path, query_params=list(query), header_params={}, auth_settings=["BearerToken"]
        )
        return url, login

    @asynccontextmanager
    async def _speaking(self) -> AsyncIterator[None]:
        try:
            yield
        except server.Refused as error:
            raise refusal_of(error.status, str(error)) from error
        except aiohttp.WSServerHandshakeError:
            raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            host = self.client.configuration.host
            problem = str(error) or type(error).__name__
            raise NotRunning(f"context {self.context}: {host} cannot be reached: {problem}") from error


class NotThere(Refused):
    """The API server knows no such object or kind."""


def refusal_of(status: int, message: str) -> Refused:
    """What the API server said, for a person."""
    if status == 401:
        return NoRight("the API server does not know you (401): log in again, or name another --context")
    if status == 403:
        return NoRight(f"no right: {message}")
    if status == 404:
        return NotThere(message)
    return Refused(message or f"the API server answers {status}")


@asynccontextmanager
async def cluster(
    context: str | None = None, kubeconfig: Path | None = None, namespace: str | None = None
) -> AsyncIterator[Cluster]:
    """Of that kubeconfig, else $KUBECONFIG or ~/.kube/config, else, within a pod, the pod's own. Raises NotRunning."""
    configuration = Configuration()
    try:
        name, default_namespace = await _loaded(configuration, context, kubeconfig)
    except config.ConfigException as error:
        raise NotRunning(_config_text(str(error), context, kubeconfig)) from error
    except OSError as error:
        raise NotRunning(f"{kubeconfig or 'kubeconfig'}: {error.strerror or error}") from error
    except (
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
        YAMLError,
    ) as error:  # what the loader makes of other files
        raise NotRunning(_config_text("it is no kubeconfig", context, kubeconfig)) from error
    async with ApiClient(configuration) as client:
        yield Cluster(client, name, namespace or default_namespace)


async def _loaded(configuration: Configuration, context: str | None, kubeconfig: Path | None) -> tuple[str, str]:
    """Fills the configuration in; the context's name and its namespace."""
    if kubeconfig is None and context is None and (namespace := _namespace_of_pod()) and not has_kubeconfig():
        config.load_incluster_config(client_configuration=configuration)
        return "of this pod", namespace
    if kubeconfig is not None:
        os.stat(kubeconfig)  # the loader only says that there is no configuration
    loader = await config.load_kube_config(
        config_file=None if kubeconfig is None else str(kubeconfig),
        context=context,
        client_configuration=configuration,
    )
    found = loader.current_context
    return str(found["name"]), str(found["context"].get("namespace") or "default")


def _namespace_of_pod() -> str | None:
    """None: this process runs in none."""
    try:
        return (_SERVICE_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        return None


def _config_text(error: str, context: str | None, kubeconfig: Path | None) -> str:
    place = str(kubeconfig) if kubeconfig is not None else os.environ.get("KUBECONFIG") or "~/.kube/config"
    if context is not None and context in error:
        return f"{place}: no context {context!r}"
    return f"{place}: {error}"


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()[:500]
