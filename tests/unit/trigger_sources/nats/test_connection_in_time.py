"""A connection that is not there in time is given up, whatever its client makes of that."""

import asyncio

import pytest

from trigger_sources.nats.connection import in_time


async def test_a_client_that_forgets_a_cancellation_is_cancelled_again() -> None:
    """As `wait_for` of Python 3.11 does, where the cancellation comes together with what it waits for."""
    forgotten = 0

    async def connecting() -> None:
        nonlocal forgotten
        while True:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                if forgotten == 2:
                    raise
                forgotten += 1

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(in_time(connecting(), 0.05), 5)
    assert forgotten == 2


async def test_what_is_there_in_time_is_kept_and_its_error_is_raised() -> None:
    async def refused() -> None:
        raise ConnectionRefusedError

    await in_time(asyncio.sleep(0), 5)
    with pytest.raises(ConnectionRefusedError):
        await in_time(refused(), 5)
