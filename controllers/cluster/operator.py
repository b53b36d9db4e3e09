"""A controller as a process: kopf watches, the controller's own tasks work, a signal stops both in order.

kopf ends by cancelling every task of its event loop, so it has a thread and a loop of its own: what it hears is handed
over, and what drains is not cut off.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import kopf

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 5.0  # after kopf gave up
_JOIN_SECONDS = 15.0

Event = Mapping[
    str, Any
]  # `type`: None for what was there, ADDED, MODIFIED, DELETED; `object`: as the API server has it


@dataclass(frozen=True)
class Watch:
    """Objects of a kind, those with this label where one is named. `heard` is called for each event, in order."""

    group: str
    version: str
    plural: str
    heard: Callable[[Event], None]
    label: str | None = None


async def operate(
    watches: Sequence[Watch],
    work: Callable[[], Coroutine[Any, Any, None]],
    *,
    namespace: str | None = None,
    stop: asyncio.Event | None = None,
    narrow: Sequence[Watch] = (),
    narrow_namespaces: Sequence[str] = (),
) -> None:
    """Runs until `stop` is set or a signal comes; `work` is cancelled then, and has the time that it takes. A fault in
    it is raised.

    `namespace`: None for all. `narrow` is watched in `narrow_namespaces` only: there are no rights to it elsewhere.
    """
    loop = asyncio.get_running_loop()
    stop = stop or asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    threads = [_Watching(loop, watches, [] if namespace is None else [namespace])]
    if narrow and narrow_namespaces:
        threads.append(_Watching(loop, narrow, narrow_namespaces))
    for thread in threads:
        thread.start()
    working = asyncio.ensure_future(work())
    told = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, told):
            task.cancel()
        results = await asyncio.gather(working, told, return_exceptions=True)
        for thread in threads:
            await asyncio.to_thread(thread.end)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def beside(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs all of them until cancelled; then each is ended before the next is told to. A fault of one ends them all,
    and is raised.
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


class _Watching(threading.Thread):
    """One operator of kopf's; without namespaces, of all of them. It is started again when it gives up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, watches: Sequence[Watch], namespaces: Sequence[str]) -> None:
        super().__init__(name="watching", daemon=True)
        self._listener = loop
        self._watches = watches
        self._namespaces = namespaces
        self._told = threading.Event()

    def end(self) -> None:
        self._told.set()
        self.join(_JOIN_SECONDS)

    def run(self) -> None:
        while not self._told.is_set():
            try:
                asyncio.run(self._watch())
            except Exception as error:  # noqa: BLE001  whatever it gives up for, the work goes on
                log.warning("watching failed", extra={"problem": str(error) or repr(error)})
            self._told.wait(_AGAIN_SECONDS)

    async def _watch(self) -> None:
        registry = kopf.OperatorRegistry()
        settings = kopf.OperatorSettings()
        settings.scanning.disabled = bool(self._namespaces)  # definitions and namespaces are nobody's to list then
        settings.posting.enabled = False  # events are posted by the controllers, where they mean something
        kopf.on.login(registry=registry)(_login)
        for watch in self._watches:
            labels = None if watch.label is None else {watch.label: kopf.PRESENT}
            seen = kopf.on.event(watch.group, watch.version, watch.plural, labels=labels, registry=registry)
            seen(self._handed_to(watch.heard))
        await kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,  # who writes is decided by a Lease, not by kopf's peering
            identity=cast(Any, "kubeirq"),  # or it asks for the user's name, and a pod's user may have none
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._told,
        )

    def _handed_to(self, heard: Callable[[Event], None]) -> Callable[..., Any]:
        async def hand_over(event: Event, **_: Any) -> None:
            if not self._told.is_set():
                self._listener.call_soon_threadsafe(heard, {"type": event["type"], "object": dict(event["object"])})

        return hand_over


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """The pod's service account, or the kubeconfig."""
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
