"""Publishes the function's answers, as often as it takes: an event is acknowledged only after its reply is published.

A caller that is waiting for the answer waits ten seconds for that at most.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from trigger_sources.delivery import Answer, Delivery
from trigger_sources.dispatch.held import Identity
from trigger_sources.dispatch.replies import identity_of, reply_to
from trigger_sources.dispatch.standing import StandingProblems
from trigger_sources.events import Event
from trigger_sources.publisher import Publisher, ReplyRefused

log = logging.getLogger(__name__)

_CALLER_SECONDS = 10.0
_FAILURES_SHOWN = 3  # of a reply, before a condition shows its problem


class ReplyFailed(Exception):
    """The reply was not published while a caller was waiting for the answer."""


class ReplySender:
    """The replies of one trigger and function, as the dispatcher needs them.

    `delay_after` gives the seconds to wait after so many failures; `failed` is told the problem of each failure.
    """

    def __init__(
        self,
        publisher: Publisher,
        identity: Identity,
        where: Mapping[str, str],
        delay_after: Callable[[int], float],
        failed: Callable[[str], None],
    ) -> None:
        self._publisher = publisher
        self._identity = identity
        self._where = where
        self._delay_after = delay_after
        self._failed = failed
        self._problems = StandingProblems(_FAILURES_SHOWN)

    @property
    def unpublished(self) -> str:
        """Why a reply is not published just now; empty when all are."""
        return self._problems.newest

    async def answer(self, delivery: Delivery, answer: Answer) -> None:
        """Returns once the reply that the answer brings, if it brings one, is published.

        Raises ReplyRefused when another try cannot succeed, ReplyFailed when a caller has waited for ten seconds.
        """
        reply = reply_to(delivery.event, answer, self._identity.namespace, self._identity.function)
        if reply is not None:
            await self.publish(delivery, reply)

    async def publish(self, delivery: Delivery, reply: Event) -> None:
        """Returns once the reply to a delivery is published, however many tries that takes. Raises as `answer`."""
        publish = self._publish_of(delivery, reply)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CALLER_SECONDS if delivery.caller_waits else None
        with self._problems.work() as tries:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        await publish()
                    return
                except ReplyRefused:
                    raise
                except Exception as error:
                    message = f"reply not published: {error}" if str(error) else "reply not published in time"
                    tries.failed(message)
                    self._failed(message)
                    if tries.failures == 1:
                        log.warning("reply not published", extra={**self._where, "error": message})
                    if deadline is not None and loop.time() >= deadline:
                        raise ReplyFailed(message) from error
                    await asyncio.sleep(self._delay_after(tries.failures))

    def _publish_of(self, delivery: Delivery, reply: Event) -> Callable[[], Awaitable[None]]:
        """Tries to publish once."""
        partition_key = reply.extensions.get("partitionkey")
        key = delivery.key if partition_key is None else partition_key.encode()
        if (publish_once := getattr(self._publisher, "publish_once", None)) is None:
            return partial(self._publisher.publish, reply, key)
        identity = self._identity
        return partial(publish_once, reply, key, identity_of(delivery, identity.uid, identity.function))

    async def close(self) -> None:
        await self._publisher.close()
