"""The client of a consumer group: opened with settings that skip nothing silently, and closed in bounded time."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from trigger_sources.context import Context
from trigger_sources.kafka.client import advertised_by, not_connected, start
from trigger_sources.kafka.member import SESSION_SECONDS
from trigger_sources.kafka.security import Security, client_arguments

_CLOSE_SECONDS = 1.0
_MOST_IDLE_MS = 10 * 365 * 86_400_000  # a client that nobody reads from for longer leaves the group


async def open_consumer(
    brokers: Sequence[str], group: str, security: Security | None, context: Context, *, fetch_wait_ms: int
) -> AIOKafkaConsumer:
    """A started consumer that is subscribed to nothing. Raises SourceError if no broker answers."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=list(brokers),
        group_id=group,
        client_id=f"kubeirq-{context.replica}",
        enable_auto_commit=False,
        auto_offset_reset="none",  # the member decides where to begin, and skips nothing silently
        isolation_level="read_committed",  # no records of aborted transactions
        max_poll_interval_ms=_MOST_IDLE_MS,  # a flow that is full, or whose function is down, is not a dead member
        rebalance_timeout_ms=60_000,
        session_timeout_ms=int(SESSION_SECONDS * 1000),
        heartbeat_interval_ms=1_000,
        fetch_max_wait_ms=fetch_wait_ms,
        request_timeout_ms=20_000,
        metadata_max_age_ms=30_000,
        **await client_arguments(security, context),
    )
    try:
        await start(consumer)
    except (KafkaError, OSError) as error:
        advertised = advertised_by(consumer._client)
        await close_consumer(consumer)
        raise await not_connected(brokers, security, error, advertised) from error
    except BaseException:
        await close_consumer(consumer)
        raise
    return consumer


async def close_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leaves the group, and closes tasks and connections even if no broker answers."""
    # A separate task: while no broker answers, `stop` ends with the CancelledError of a fetch that it cancelled
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.wait({stopping}, timeout=_CLOSE_SECONDS)
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        await _close_late_connections(consumer._client)
        return
    stopping.cancel()
    coordinator, fetches = consumer._coordinator, list(consumer._fetcher._pending_tasks)
    for fetch in fetches:
        fetch.cancel()
    await asyncio.gather(
        stopping,
        *fetches,
        coordinator._stop_heartbeat_task(),
        coordinator._stop_commit_offsets_refresh_task(),
        consumer._client.close(),
        return_exceptions=True,
    )
    await _close_late_connections(consumer._client)


async def _close_late_connections(client: AIOKafkaClient) -> None:
    """Closes a connection that a call beside the reader, such as one for the lag, was making as the client closed."""

    async def no_connection(*_: Any, **__: Any) -> None:
        return None

    client._get_conn = no_connection  # the call then ends as with a broker that does not answer
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_SECONDS), client._get_conn_lock:
            pass  # whoever was connecting has its connection now
    with contextlib.suppress(Exception):
        await client.close()
