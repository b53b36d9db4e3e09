"""Repeats calls to brokers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiokafka.errors import KafkaError

T = TypeVar("T")

_RETRY_SECONDS = 0.1


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The result of a call that is repeated while it fails with an error that passes. Raises KafkaError."""
    while True:
        try:
            return await call()
        except KafkaError as error:
            if not error.retriable:
                raise
            await asyncio.sleep(_RETRY_SECONDS)
