"""A controller as a process: kopf watches, the controller's own tasks work, a signal stops both."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import kopf

log = logging.getLogger(__name__)


async def operate(
    register: Callable[[kopf.OperatorRegistry], None],
    work: Callable[[], Coroutine[Any, Any, None]],
    *,
    namespace: str | None = None,
    liveness: str | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Runs until `stop` is set or a signal comes. A fault in either part ends the other, and is raised.

    `namespace`: None for all. `liveness`: where /healthz answers, as http://0.0.0.0:8080/healthz.
    """
    registry = kopf.OperatorRegistry()
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # events are posted by the controllers, where they mean something
    kopf.on.login(registry=registry)(_login)
    register(registry)
    watching = asyncio.ensure_future(
        kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,  # who writes is decided by a Lease, not by kopf's peering
            clusterwide=namespace is None,
            namespaces=[] if namespace is None else [namespace],
            liveness_endpoint=liveness,
            stop_flag=stop,
        )
    )
    working = asyncio.ensure_future(work())
    tasks: list[asyncio.Future[Any]] = [watching, working]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """The pod's service account, or the kubeconfig."""
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
