"""Watches the Secrets of the namespaces whose triggers refer to some.

RBAC alone says which namespaces may be read, and the API server is asked again and again: a namespace that is allowed
or forbidden later needs no restart. Each namespace has a watch of its own, so that one that is forbidden, deleted or
slow concerns its own triggers only.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from contextlib import aclosing

from controllers.cluster.api import Api, Refused
from controllers.triggers.secrets import Secrets
from trigger_sources.backoff import Backoff

log = logging.getLogger(__name__)

_LIST_AGAIN_SECONDS = 300.0  # finds everything that a watch missed, and a right that was taken away
_RETRY_FIRST_SECONDS, _RETRY_MAX_SECONDS = 1.0, 30.0
_REFUSAL_GRACE_SECONDS = 60.0  # a starting API server refuses before it has read its roles


class SecretWatches:
    """Lives in one event loop. `on_change` gets a namespace, and the names of the Secrets whose content changed.

    Give `api` no limit of connections: each watch takes one.
    """

    def __init__(self, api: Api, secrets: Secrets) -> None:
        self.on_change: Callable[[str, Collection[str]], None] = lambda namespace, names: None
        self._api = api
        self._secrets = secrets
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._answered: dict[str, asyncio.Event] = {}

    async def begin(self, namespace: str) -> None:
        """Returns once the API server has answered for the namespace, with its Secrets or with a refusal."""
        if namespace not in self._watches:
            self._answered[namespace] = asyncio.Event()
            self._watches[namespace] = asyncio.create_task(self._watch(namespace), name=f"secrets of {namespace}")
        await self._answered[namespace].wait()

    async def retain(self, namespaces: Collection[str]) -> None:
        """Ends all watches but these."""
        ended = [self._watches.pop(namespace) for namespace in self._watches.keys() - set(namespaces)]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)

    async def aclose(self) -> None:
        await self.retain(())

    async def _watch(self, namespace: str) -> None:
        backoff = Backoff(_RETRY_FIRST_SECONDS, _RETRY_MAX_SECONDS)
        refused_since: float | None = None
        try:
            while True:
                try:
                    version = await self._read(namespace)
                    refused_since = None
                    backoff.reset()
                    await self._follow(namespace, version)
                except Refused as refused:
                    if refused.status == 403:
                        refused_since = time.monotonic() if refused_since is None else refused_since
                    self._refused(namespace, refused, refused_since)
                except Exception as error:
                    is_expected = isinstance(error, (OSError, TimeoutError))
                    log.warning("secrets not read", extra={"namespace": namespace}, exc_info=not is_expected)
                    self._secrets.fail(namespace, str(error) or type(error).__name__)
                self._answered[namespace].set()
                await asyncio.sleep(backoff.next())
        finally:
            self._answered[namespace].set()
            self._secrets.drop(namespace)

    def _refused(self, namespace: str, refused: Refused, refused_since: float | None) -> None:
        if refused.status == 410:
            return  # the server no longer has the version of the watch
        if refused.status != 403 or refused_since is None:
            log.warning("secrets not read", extra={"namespace": namespace, "problem": str(refused)})
            self._secrets.fail(namespace, str(refused))
        elif not self._secrets.is_listed(namespace) or time.monotonic() - refused_since > _REFUSAL_GRACE_SECONDS:
            self._changed(namespace, self._secrets.forbid(namespace))

    async def _read(self, namespace: str) -> str:
        """Lists the Secrets. Returns the version from which the watch goes on."""
        self._secrets.begin_list(namespace)
        listed, version = await self._api.snapshot("v1", "Secret", namespace, {})
        self._changed(namespace, self._secrets.replace(namespace, listed))
        self._answered[namespace].set()
        return version

    async def _follow(self, namespace: str, version: str) -> None:
        """Takes the changes until the watch ends, or until it is time to list again."""
        changes = self._api.changes("v1", "Secret", namespace, {}, version)
        try:
            async with asyncio.timeout(_LIST_AGAIN_SECONDS) as limit, aclosing(changes):
                async for kind, secret in changes:
                    self._changed(namespace, self._secrets.observe(secret, deleted=kind == "DELETED"))
        except TimeoutError:
            if not limit.expired():
                raise

    def _changed(self, namespace: str, names: Collection[str]) -> None:
        if names:
            self.on_change(namespace, names)
