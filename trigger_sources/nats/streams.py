"""Requests about whole streams: the fabric's own ones, created if they are missing, and the subjects of any."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from trigger_sources.context import SourceError
from trigger_sources.nats.connection import Connection, JetStreamError

_NEVER = "18446744073709551615"
_WRONG_LAST_SEQUENCE = 10071


async def ensure_stream(connection: Connection, config: Mapping[str, Any]) -> dict[str, Any]:
    """Creates the stream if needed, and returns its configuration. Of an existing stream, only the replicas change."""
    name, replicas = config["name"], config.get("num_replicas")
    try:
        found: dict[str, Any] = (await connection.api(f"STREAM.INFO.{name}"))["config"]
    except JetStreamError as error:
        if not error.not_found:
            raise
        found = (await connection.api(f"STREAM.CREATE.{name}", config))["config"]
    if replicas is not None and found["num_replicas"] != replicas:
        found = (await connection.api(f"STREAM.UPDATE.{name}", {**found, "num_replicas": replicas}))["config"]
    return found


async def messages_by_subject(connection: Connection, stream: str, pattern: str) -> AsyncIterator[tuple[str, int]]:
    """Each subject of the stream's messages that matches the pattern, with their number. Nothing without a stream."""
    offset = 0
    while True:  # the answer comes in pages
        try:
            info = await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": offset})
        except JetStreamError as error:
            if error.not_found:
                return
            raise
        page = info["state"].get("subjects") or {}
        for subject, count in page.items():
            yield subject, count
        offset += len(page)
        if not page or offset >= info.get("total", 0):
            return


async def check_publishing(connection: Connection, subject: str) -> None:
    """Checks that a stream accepts messages on the subject, with a message that it must refuse, so that none is kept.

    Raises SourceError if not.
    """
    try:
        await connection.publish(subject, [b""], {"Nats-Expected-Last-Sequence": _NEVER})
    except JetStreamError as error:
        if error.code != _WRONG_LAST_SEQUENCE:
            raise
    else:
        raise SourceError(
            "StoreUnusable", f"{connection.place}: {subject}: the stream accepts a message that it should refuse"
        )
