"""Parting with held events: a withdrawal forgets what is another replica's now, a drain gives back what is left."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from trigger_sources.delivery import Delivery
from trigger_sources.dispatch.dispatcher import Dispatcher
from trigger_sources.dispatch.held import Held
from trigger_sources.dispatch.life import Input, Resource, State

_LAST_SECONDS = 5.0  # for writes, acknowledgements and cancelled work, after the grace is over
_LOOK_SECONDS = 0.5


async def withdraw(dispatcher: Dispatcher, lost: Callable[[Delivery], bool], grace_seconds: float) -> None:
    """Forgets the events that `lost` names: waiting ones at once, running ones after the grace.

    On return none of them will be settled. Redriven events stay: they are not the source's, which lets others go.
    """
    _withdraw_all(dispatcher, [held for held in _lost(dispatcher, lost) if not held.runs])
    deadline = time.monotonic() + grace_seconds
    while (left := deadline - time.monotonic()) > 0 and any(held.runs for held in _lost(dispatcher, lost)):
        await dispatcher.room_changes(min(_LOOK_SECONDS, left))
    # An event that failed in the meantime waits for an attempt that it will not get
    cancelled = _withdraw_all(dispatcher, _lost(dispatcher, lost))
    if cancelled:
        await asyncio.wait(cancelled, timeout=_LAST_SECONDS)
    dispatcher.nudge()


def _lost(dispatcher: Dispatcher, lost: Callable[[Delivery], bool]) -> list[Held]:
    found = [held for held in dispatcher.events() if not held.redriven and lost(held.delivery)]
    # Events behind the first one of their lane go first: none of them must start when that one goes
    found.sort(key=lambda held: held.first)
    return found


def _withdraw_all(dispatcher: Dispatcher, events: Iterable[Held]) -> "list[asyncio.Task[None]]":
    """Withdraws them. Returns the tasks that this cancels."""
    cancelled = []
    for held in events:
        if isinstance(held.work, asyncio.Task):
            cancelled.append(held.work)
        dispatcher.give(held, Input.WITHDRAWN)
    return cancelled


async def drain(dispatcher: Dispatcher, grace_seconds: float) -> None:
    """Lets running events settle within the grace. All others are given back to the source at once.

    Callers that wait for an answer cannot be given back: their events are still started within the grace.
    """
    dispatcher.take_no_more()
    for held in dispatcher.events():
        if not held.runs and not held.delivery.caller_waits:
            dispatcher.give(held, Input.STOPPED)
    deadline = time.monotonic() + grace_seconds
    while (left := deadline - time.monotonic()) > 0 and dispatcher.can_settle_more:
        await dispatcher.room_changes(min(_LOOK_SECONDS, left))
    dispatcher.start_no_more()
    for held in dispatcher.events():
        if held.state is not State.RETURNING:
            dispatcher.give(held, Input.STOPPED)
    await _until_gone(dispatcher, dispatcher.events())
    late = [held for held in dispatcher.events() if held.state is not State.RETURNING]
    for held in late:
        dispatcher.give(held, Input.ABANDONED)
    await _until_gone(dispatcher, late)
    for held in dispatcher.events():
        dispatcher.give(held, Input.ABANDONED)


async def _until_gone(dispatcher: Dispatcher, events: Sequence[Held]) -> None:
    """Waits until none of them is held any longer, for a few seconds."""
    try:
        async with asyncio.timeout(_LAST_SECONDS):
            while any(Resource.ROOM in held.state.holds for held in events):
                await dispatcher.room_changes(None)
    except TimeoutError:
        return
