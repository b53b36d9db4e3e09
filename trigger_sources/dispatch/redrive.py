"""Dispatches dead letters again, beside the live flow, with the trigger's own delivery settings."""

import asyncio
from collections.abc import AsyncIterator

from trigger_sources.dead_letters import DeadLetter, DeadLetters
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.dispatch.dispatcher import Dispatcher

_AT_ONCE = 64  # under way at the same time, beside the room of the live flow


async def redrive(
    dispatcher: Dispatcher,
    letters: AsyncIterator[DeadLetter],
    rate_per_second: float | None,
    place: DeadLetters | None = None,
) -> AsyncIterator[tuple[DeadLetter, Outcome]]:
    """Yields each dead letter with its outcome, as it settles. A dead letter is removed once its event is settled.

    An event that fails again replaces its dead letter, with a longer history, whatever `onFailure` says. The dead
    letter may be of a former function of the trigger, or in a former `place`: it is then replaced by one of the present
    function, in the present place. One that is held already, or whose lane is parked, is not started: its outcome is
    `returned`. A flow that stops ends the redrive: events that have not settled by then are `returned`, and their dead
    letters stay. A dead letter that its place does not remove is `returned`, too (`LetterNotRemoved`).
    """
    done: asyncio.Queue[tuple[DeadLetter, Outcome]] = asyncio.Queue()
    under_way = 0
    async for letter in letters:
        while under_way >= _AT_ONCE or not done.empty():
            yield await done.get()
            under_way -= 1
        if dispatcher.draining.is_set():
            break
        _start(dispatcher, letter, done, place)
        under_way += 1
        if rate_per_second:
            await asyncio.sleep(1 / rate_per_second)
    while under_way:
        yield await done.get()
        under_way -= 1


def _start(
    dispatcher: Dispatcher,
    letter: DeadLetter,
    done: "asyncio.Queue[tuple[DeadLetter, Outcome]]",
    place: DeadLetters | None,
) -> None:
    mine = letter.function == dispatcher.identity.function

    async def settle(outcome: Outcome) -> None:
        if outcome.final:
            replaced = outcome.kind == "deadLettered"
            try:
                await dispatcher.letters.remove(letter, place, mine=mine, replaced=replaced)
            except Exception as error:
                text = f"its event ended ({outcome.kind}), and it could not be removed: {str(error) or repr(error)}"
                done.put_nowait((letter, Outcome("returned", "LetterNotRemoved", message=text)))
                raise
        done.put_nowait((letter, outcome))

    delivery = Delivery(
        letter.event, settle, letter.position, letter.key, letter.partition,
        headers=letter.headers, request=letter.request,
    )  # fmt: skip
    if reason := dispatcher.take_again(delivery, letter):
        done.put_nowait((letter, Outcome("returned", reason)))
