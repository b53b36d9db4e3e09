"""A controller as a process: kopf watches, the controller's own tasks work, a signal stops both."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import kopf

log = logging.getLogger(__name__)


async def operate(
    register: Callable[[kopf.OperatorRegistry], None],
    work: Callable[[], Coroutine[Any, Any, None]],
    *,
    namespace: str | None = None,
    stop: asyncio.Event | None = None,
    narrow: Callable[[kopf.OperatorRegistry], None] | None = None,
    narrow_namespaces: Sequence[str] = (),
) -> None:
    """Runs until `stop` is set or a signal comes. A fault in any part ends the others, and is raised.

    `namespace`: None for all. `narrow` registers what is watched in `narrow_namespaces` only, beside the rest: there
    are no rights to it elsewhere.
    """
    stop = stop or asyncio.Event()
    watched = [_watching(register, [] if namespace is None else [namespace], stop)]
    if narrow is not None and narrow_namespaces:
        watched.append(_watching(narrow, narrow_namespaces, stop))
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(found) for found in (*watched, work())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def _watching(
    register: Callable[[kopf.OperatorRegistry], None],
    namespaces: Sequence[str],
    stop: asyncio.Event,
) -> Coroutine[Any, Any, None]:
    """One operator; without namespaces, of all of them."""
    registry = kopf.OperatorRegistry()
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = bool(namespaces)  # definitions and namespaces are nobody's to list then
    settings.posting.enabled = False  # events are posted by the controllers, where they mean something
    kopf.on.login(registry=registry)(_login)
    register(registry)
    return kopf.operator(
        registry=registry,
        settings=settings,
        standalone=True,  # who writes is decided by a Lease, not by kopf's peering
        identity=cast(Any, "kubeirq"),  # or it asks for the user's name, and a pod's user may have none
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop,
    )


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """The pod's service account, or the kubeconfig."""
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
