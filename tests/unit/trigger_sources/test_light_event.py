"""A LightEvent does what an asyncio.Event does."""

import asyncio

from trigger_sources.light_event import LightEvent


async def test_all_that_wait_go_on_and_one_that_left_is_forgotten() -> None:
    event = LightEvent()
    waiting = [asyncio.create_task(event.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.sleep(0)
    event.set()
    assert await waiting[0]
    assert await waiting[2]
    assert waiting[1].cancelled()
    assert await event.wait(), "it is set"
    event.clear()
    assert not event.is_set()
