"""Runs a controller process: kopf watches, the controller's tasks reconcile, and a signal stops them in order.

When kopf stops, it cancels every task of its event loop. Therefore it has its own thread and event loop, and hands each
watch event over to the controller's loop. So the controller can drain its work after kopf has stopped.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import kopf
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, ClientSession, TCPConnector, hdrs
from kopf import RawBody
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from controllers.cluster.api import METADATA_EVENTS, METADATA_LIST, PAGE_SIZE, USER_AGENT, Object, with_shared_texts
from controllers.cluster.metrics import WATCH_EVENTS, WATCH_REQUESTS, resource_of

log = logging.getLogger(__name__)

_RESTART_SECONDS = 5.0  # from the end of a kopf operator to its next start
_JOIN_SECONDS = 15.0
_IDLE_SECONDS = 0.1  # for this time after an event, kopf keeps the object and a task for it

# A watch event. `type` is ADDED, MODIFIED, DELETED, or None for an object of the initial list.
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Watch:
    """A watch of one kind. `handler` gets each event, in order.

    With a `label`, the API server sends only the objects that have it. With `metadata_only`, it sends neither spec nor
    status. `compact` runs in the thread of the watch: it returns the part of the object that the handler needs.
    `page_size` is the number of objects that are read at once.
    """

    group: str
    version: str
    plural: str
    handler: Callable[[Event], None]
    label: str | None = None
    metadata_only: bool = False
    compact: Callable[[Object], Object] = dict
    page_size: int = PAGE_SIZE

    @property
    def path(self) -> str:
        """The start of the URL path of its requests."""
        return f"/apis/{self.group}/{self.version}/" if self.group else f"/api/{self.version}/"

    def is_asked_by(self, path: str) -> bool:
        """Whether a request to this URL path lists or watches the kind."""
        return path.startswith(self.path) and path.endswith(f"/{self.plural}")


async def operate(
    watches: Sequence[Watch],
    work: Callable[[], Coroutine[Any, Any, None]],
    *,
    namespace: str | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Runs `work` until `stop` is set or a signal arrives. Then cancels `work` and waits for its end. Raises its error.

    `namespace` is the one that is watched, or None for all.
    """
    loop = asyncio.get_running_loop()
    stop = stop or asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    threads = _threads_of(loop, watches, [] if namespace is None else [namespace])
    for thread in threads:
        thread.start()
    working = asyncio.ensure_future(work())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, stopped):
            task.cancel()
        results = await asyncio.gather(working, stopped, return_exceptions=True)
        for thread in threads:
            await asyncio.to_thread(thread.stop)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def run_concurrently(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs all parts until it is cancelled or one fails. Then cancels them in this order, and waits for the end of each
    before it cancels the next. Raises the error of a part.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
            await asyncio.wait({task})
    for task in tasks:
        if not task.cancelled() and (problem := task.exception()) is not None:
            raise problem


def _threads_of(
    loop: asyncio.AbstractEventLoop, watches: Sequence[Watch], namespaces: Sequence[str]
) -> list["_WatchThread"]:
    """A thread for each page size: one kopf operator has a single one."""
    sizes = {watch.page_size for watch in watches}
    return [_WatchThread(loop, [watch for watch in watches if watch.page_size == size], namespaces) for size in sizes]


class _NoMemories(ResourceMemories):
    """Keeps nothing about an object between its events. kopf's other handlers need that, and a kilobyte for each."""

    async def recall(self, raw_body: RawBody, *, ephemeral: bool = True, **options: Any) -> ResourceMemory:
        return await super().recall(raw_body, ephemeral=True, **options)


class _Response(ClientResponse):
    """Takes null for an empty list, which kopf does not: the API server answers so about metadata."""

    async def json(self, **options: Any) -> Any:
        found = await super().json(**options)
        if isinstance(found, dict) and "items" in found:
            found["items"] = found["items"] or []
        return found


class _WatchThread(threading.Thread):
    """Runs one kopf operator, for these namespaces or for all if there are none. Restarts it when it fails.

    All watches have the same page size.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, watches: Sequence[Watch], namespaces: Sequence[str]) -> None:
        super().__init__(name="watching", daemon=True)
        self._controller_loop = loop
        self._watches = watches
        self._namespaces = namespaces
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        self.join(_JOIN_SECONDS)

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                asyncio.run(self._watch())
            except Exception as error:  # noqa: BLE001  any failure of kopf leads to a restart
                log.warning("watch failed", extra={"problem": str(error) or repr(error)})
            self._stopping.wait(_RESTART_SECONDS)

    async def _watch(self) -> None:
        registry = kopf.OperatorRegistry()
        settings = kopf.OperatorSettings()
        settings.scanning.disabled = bool(self._namespaces)  # it may then list neither CRDs nor namespaces
        settings.posting.enabled = False  # the controllers record their own Events
        settings.queueing.idle_timeout = _IDLE_SECONDS
        settings.watching.chunk_size = self._watches[0].page_size
        kopf.on.login(registry=registry)(self._login)
        for watch in self._watches:
            if watch.label is not None:
                settings.watching.label_selectors[watch.group, watch.version, watch.plural] = watch.label
            register = kopf.on.event(watch.group, watch.version, watch.plural, registry=registry)
            register(self._forward_to(watch))
        await kopf.operator(
            registry=registry,
            settings=settings,
            memories=_NoMemories(),
            standalone=True,  # Leases replace kopf's peering
            identity=cast(Any, "kubeirq"),  # otherwise kopf needs the user's name, and a pod's user may have none
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stopping,
        )

    def _forward_to(self, watch: Watch) -> Callable[..., Any]:
        async def forward(event: Event, **_: Any) -> None:
            WATCH_EVENTS.add(resource=watch.plural)
            if not self._stopping.is_set():
                found = {"type": event["type"], "object": with_shared_texts(watch.compact(event["object"]))}
                self._controller_loop.call_soon_threadsafe(watch.handler, found)

        return forward

    async def _login(self, **arguments: Any) -> kopf.AiohttpSession | None:
        """Logs in with the pod's service account, or else with the kubeconfig."""
        found = kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
        if found is None:
            return None
        session = ClientSession(
            connector=TCPConnector(limit=0, ssl=found.as_ssl_context()),
            headers={**found.as_http_headers(), hdrs.USER_AGENT: USER_AGENT},
            proxy=found.proxy_url,
            trust_env=found.trust_env,
            response_class=_Response,
            middlewares=(self._prepare,),
        )
        return kopf.AiohttpSession(
            server=found.server,
            priority=found.priority,
            default_namespace=found.default_namespace,
            expiration=found.expiration,
            aiohttp_session=session,
        )

    async def _prepare(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Asks for nothing but the metadata of the kinds of which the controller needs no more. Counts watches."""
        is_watch = "watch" in request.url.query
        if any(watch.metadata_only and watch.is_asked_by(request.url.path) for watch in self._watches):
            request.headers[hdrs.ACCEPT] = METADATA_EVENTS if is_watch else METADATA_LIST
        if is_watch:
            WATCH_REQUESTS.add(resource=resource_of(request.url.path))
        return await handler(request)
