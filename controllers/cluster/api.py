"""A client of the API server. Objects are plain dicts; writes are server-side applies by one field manager."""

import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Any

from aiohttp import ClientError
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration

from controllers.cluster.metrics import API_ERRORS, API_SECONDS, WATCH_EVENTS, WATCH_REQUESTS, labels_of, resource_of

Object = dict[str, Any]

GROUP, VERSION = "kubeirq.dev", "v1"  # of kubeirq's own kinds
FIELD_MANAGER = "kubeirq"
USER_AGENT = f"kubeirq/{version('kubeirq')}"
PAGE_SIZE = 100  # objects in one response
_METADATA = "application/json;as={};g=meta.k8s.io;v=v1"
METADATA_LIST = _METADATA.format("PartialObjectMetadataList")  # the media type of a list without specs and statuses
METADATA_EVENTS = _METADATA.format("PartialObjectMetadata")  # that of such a watch
_REQUEST_SECONDS = 30
_WATCH_SECONDS = 1_800
_SHORT_CHARACTERS = 24  # a moment has 20, and so have the reasons of conditions
_MOST_SHORT_TEXTS = 10_000
_IRREGULAR_PLURALS = {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"}


class Refused(Exception):
    """The API server refused a request. `status` is the HTTP status code; the text is the server's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@asynccontextmanager
async def api(connections: int = 100) -> AsyncIterator["Api"]:
    """Connects to the cluster that this process runs in, or else to that of the kubeconfig ($KUBECONFIG).

    `connections` is the maximum number of requests and watches at a time; 0 for no maximum.
    Raises ConfigException if there is neither.
    """
    configuration = Configuration(connection_pool_maxsize=connections)
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        await config.load_kube_config(client_configuration=configuration)
    async with ApiClient(configuration) as client:
        client.user_agent = USER_AGENT
        yield Api(client)


class Api:
    """A thin layer over the client: makes paths from kinds, takes and returns dicts, and raises Refused."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        try:
            return await self.request("GET", path_of(api_version, kind, namespace, name))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    async def list(
        self,
        api_version: str,
        kind: str,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        metadata_only: bool = False,
    ) -> list[Object]:
        """All objects of the kind. A label with an empty value selects every object with the label.

        With `metadata_only`, the objects have neither spec nor status.
        """
        asked = self.objects(api_version, kind, namespace, labels, metadata_only=metadata_only)
        return [found async for found in asked]

    async def objects(
        self,
        api_version: str,
        kind: str,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        metadata_only: bool = False,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[Object]:
        """The same objects as `list`, one after the other, so that a single page is in memory at a time."""
        query = [("limit", str(page_size))]
        if labels:
            query.append(_selector(labels))
        token = ""
        while True:
            try:
                page = await self.request(
                    "GET",
                    path_of(api_version, kind, namespace),
                    query=[*query, *([("continue", token)] if token else [])],
                    accept=METADATA_LIST if metadata_only else "application/json",
                )
            except Refused as refused:
                if refused.status == 404:
                    raise Refused(404, _not_served(api_version, kind)) from refused
                raise
            for found in _items_of(page, api_version, kind):
                yield found
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def snapshot(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str]
    ) -> tuple[Sequence[Object], str]:
        """All objects of the kind with these labels, in one response, and its version: `changes` continues there."""
        page = await self.request("GET", path_of(api_version, kind, namespace), query=[_selector(labels)])
        return list(_items_of(page, api_version, kind)), page["metadata"]["resourceVersion"]

    async def changes(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str], version: str
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """The watch events after this version: ADDED, MODIFIED or DELETED, with the object. The server ends it in time.

        Raises Refused with status 410 if the server no longer has the version. Raises Refused, OSError or TimeoutError.
        """
        query = [_selector(labels), ("watch", "true"), ("resourceVersion", version)]
        query.append(("timeoutSeconds", str(_WATCH_SECONDS)))
        path = path_of(api_version, kind, namespace)
        WATCH_REQUESTS.add(resource=resource_of(path))
        answer = await self._send("GET", path, query, _WATCH_SECONDS + 30)
        try:
            with _client_errors():
                if answer.status != 200:
                    raise Refused(answer.status, _message(await answer.read()))
                async for line in answer.response.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Refused(event["object"].get("code", 0), _message(json.dumps(event["object"])))
                    WATCH_EVENTS.add(resource=resource_of(path))
                    yield event["type"], event["object"]
        except ValueError as error:  # a line that ends early, or that is too long
            raise ConnectionError(f"the API server: a watch event cannot be read: {error}") from error
        finally:
            answer.response.close()

    async def apply(self, wanted: Mapping[str, Any], *, subresource: str = "", manager: str = FIELD_MANAGER) -> Object:
        """Applies these fields to the object or its subresource, and takes over conflicting fields.

        Removes each field that `manager` applied earlier and that `wanted` lacks, unless another manager owns it too.
        """
        metadata = wanted["metadata"]
        path = path_of(wanted["apiVersion"], wanted["kind"], metadata.get("namespace"), metadata["name"])
        return await self.request(
            "PATCH",
            f"{path}/{subresource}" if subresource else path,
            body=wanted,
            query=[("fieldManager", manager), ("force", "true")],
            content_type="application/apply-patch+yaml",
        )

    async def create(self, wanted: Mapping[str, Any]) -> Object:
        """Raises Refused with status 409 if the object exists."""
        return await self.request(
            "POST", path_of(wanted["apiVersion"], wanted["kind"], wanted["metadata"].get("namespace")), body=wanted
        )

    async def replace(self, wanted: Mapping[str, Any]) -> Object:
        """Replaces the whole object. Raises Refused with status 409 if its resourceVersion is outdated."""
        metadata = wanted["metadata"]
        path = path_of(wanted["apiVersion"], wanted["kind"], metadata.get("namespace"), metadata["name"])
        return await self.request("PUT", path, body=wanted)

    async def delete(self, found: Mapping[str, Any]) -> None:
        """Deletes this object, by uid if it has one, with background propagation. Ignores that it is already gone."""
        metadata = found["metadata"]
        body: Object = {"propagationPolicy": "Background"}
        if "uid" in metadata:
            body["preconditions"] = {"uid": metadata["uid"]}
        path = path_of(found["apiVersion"], found["kind"], metadata.get("namespace"), metadata["name"])
        try:
            await self.request("DELETE", path, body=body)
        except Refused as refused:
            if refused.status not in (404, 409):
                raise

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Sequence[tuple[str, str]] = (),
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Object:
        """Sends one request and returns the JSON response. Raises Refused, or OSError or TimeoutError without one."""
        labels = labels_of(method, path)
        try:
            with API_SECONDS.measured(**labels):
                answer = await self._send(method, path, query, _REQUEST_SECONDS, body, content_type, accept)
                with _client_errors():
                    text = await answer.read()
            if not 200 <= answer.status <= 299:
                raise Refused(answer.status, _message(text))
        except (Refused, OSError, TimeoutError) as error:
            API_ERRORS.add(**labels, status=str(error.status) if isinstance(error, Refused) else "none")
            raise
        found: Object = json.loads(text)
        return found

    async def _send(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        seconds: float,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Any:
        """Returns the response with its body unread."""
        request = await self._client.param_serialize(
            method,
            path,
            query_params=list(query),
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        with _client_errors():
            return await self._client.call_api(*request, _request_timeout=seconds)


def path_of(api_version: str, kind: str, namespace: str | None, name: str | None = None) -> str:
    """The URL path of a kind's collection or of one object."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    inside = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{inside}/{plural_of(kind)}" + (f"/{name}" if name else "")


def _not_served(api_version: str, kind: str) -> str:
    group, _, version = api_version.rpartition("/")
    name = ".".join(filter(None, (plural_of(kind), group)))
    return f"the API server has no {name} in {version}: install the definition, or the one of this version of kubeirq"


def plural_of(kind: str) -> str:
    return _IRREGULAR_PLURALS.get(kind, f"{kind.lower()}s")


def with_shared_texts(value: Any) -> Any:
    """A copy whose field names and short texts are the same strings in all objects. They take most of the memory."""
    if isinstance(value, dict):
        return {sys.intern(name): with_shared_texts(inside) for name, inside in value.items()}
    if isinstance(value, list):
        return [with_shared_texts(inside) for inside in value]
    if isinstance(value, str) and len(value) <= _SHORT_CHARACTERS:
        if len(_short_texts) > _MOST_SHORT_TEXTS:
            _short_texts.clear()  # versions and moments come without end
        return _short_texts.setdefault(value, value)
    return value


_short_texts: dict[str, str] = {}


def without_managers(found: Object) -> Object:
    """The same object without `managedFields`, which take half of a cached object's memory."""
    found["metadata"].pop("managedFields", None)
    return found


def _items_of(page: Mapping[str, Any], api_version: str, kind: str) -> Iterator[Object]:
    """The objects of a list. Its items have neither apiVersion nor kind, or those of their metadata."""
    for item in page["items"] or ():  # null if the list of metadata is empty
        yield {**item, "apiVersion": api_version, "kind": kind}


def _selector(labels: Mapping[str, str]) -> tuple[str, str]:
    return "labelSelector", ",".join(f"{key}={value}" if value else key for key, value in labels.items())


@contextmanager
def _client_errors() -> Iterator[None]:
    """Raises the errors of the client as Refused, OSError or TimeoutError."""
    try:
        yield
    except ApiException as error:
        raise Refused(error.status or 0, _message(error.body)) from None
    except ClientError as error:
        if isinstance(error, OSError):
            raise
        raise ConnectionError(f"the API server: {error or type(error).__name__}") from error


def _message(body: str | bytes | None) -> str:
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
