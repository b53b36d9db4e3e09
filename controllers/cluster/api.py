"""A client of the API server. Objects are plain dicts; writes are server-side applies by one field manager."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from aiohttp import ClientError
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration

Object = dict[str, Any]

GROUP, VERSION = "kubeirq.dev", "v1"  # of kubeirq's own kinds
FIELD_MANAGER = "kubeirq"
USER_AGENT = f"kubeirq/{version('kubeirq')}"
PAGE_SIZE = 100  # objects in one response
_METADATA = "application/json;as={};g=meta.k8s.io;v=v1"
METADATA_LIST = _METADATA.format("PartialObjectMetadataList")  # the media type of a list without specs and statuses
METADATA_EVENTS = _METADATA.format("PartialObjectMetadata")  # that of such a watch
_IRREGULAR_PLURALS = {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"}


class Refused(Exception):
    """The API server refused a request. `status` is the HTTP status code; the text is the server's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@asynccontextmanager
async def api() -> AsyncIterator["Api"]:
    """Connects to the cluster that this process runs in, or else to that of the kubeconfig ($KUBECONFIG).

    Raises ConfigException if there is neither.
    """
    configuration = Configuration()
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
            query.append(
                ("labelSelector", ",".join(f"{key}={value}" if value else key for key, value in labels.items()))
            )
        token = ""
        while True:
            page = await self.request(
                "GET",
                path_of(api_version, kind, namespace),
                query=[*query, *([("continue", token)] if token else [])],
                accept=METADATA_LIST if metadata_only else "application/json",
            )
            for item in page["items"]:
                # the items of a list have neither apiVersion nor kind, or those of their metadata
                yield {**item, "apiVersion": api_version, "kind": kind}
            token = page["metadata"].get("continue", "")
            if not token:
                return

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
        request = await self._client.param_serialize(
            method,
            path,
            query_params=list(query),
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._client.call_api(*request, _request_timeout=30)
            text = await answer.read()
        except ApiException as error:
            raise Refused(error.status or 0, _message(error.body)) from None
        except ClientError as error:
            if isinstance(error, OSError):
                raise
            raise ConnectionError(f"the API server: {error or type(error).__name__}") from error
        if not 200 <= answer.status <= 299:
            raise Refused(answer.status, _message(text))
        found: Object = json.loads(text)
        return found


def path_of(api_version: str, kind: str, namespace: str | None, name: str | None = None) -> str:
    """The URL path of a kind's collection or of one object."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    inside = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{inside}/{plural_of(kind)}" + (f"/{name}" if name else "")


def plural_of(kind: str) -> str:
    return _IRREGULAR_PLURALS.get(kind, f"{kind.lower()}s")


def _message(body: str | bytes | None) -> str:
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
