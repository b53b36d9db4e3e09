"""Writes dead letters, as often as it takes: an event is acknowledged only after its dead letter is durable.

A place that is gone is made again before the next try. A letter that its place finds too large loses the answers of the
function first, then its attempts; it never loses the event.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from trigger_sources.backoff import Backoff
from trigger_sources.dead_letters import SLIMMEST, DeadLetter, DeadLetters, LetterTooLarge, slimmer
from trigger_sources.dispatch.standing import StandingProblems, Tries

log = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0


class LetterWriter:
    """The dead letters of one trigger and function, as the dispatcher needs them.

    `store` is set before the first event is taken. `count` is the number of dead letters, kept up to date from the
    number that the store had at the start. `unwritable` says why one is not written just now; empty when all are.
    """

    def __init__(self, where: Mapping[str, str]) -> None:
        self.store: DeadLetters | None = None
        self.count = 0
        self._problems = StandingProblems()
        self._where = where
        self._preparing: asyncio.Task[None] | None = None

    @property
    def unwritable(self) -> str:
        return self._problems.newest

    async def write(self, letter_of: Callable[[], DeadLetter]) -> None:
        """Returns once the dead letter is durable. Any failure leads to another try."""
        with self._problems.work() as tries:
            letter = await self._until_written(tries, letter_of)
        if letter.redriven == 0:  # a redriven event that failed again replaces its own dead letter
            self.count += 1

    async def _until_written(self, tries: Tries, letter_of: Callable[[], DeadLetter]) -> DeadLetter:
        backoff = Backoff(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
        slimmed = 0
        while True:
            try:
                letter = slimmer(letter_of(), slimmed)
                assert self.store is not None
                if tries.failures:
                    await self._prepare_again(self.store)  # the topic or stream may have been deleted
                await self.store.write(letter)
                return letter
            except Exception as error:
                if isinstance(error, LetterTooLarge) and slimmed < SLIMMEST:
                    slimmed += 1
                    continue
                tries.failed(f"dead letter not written: {error}")
                if tries.failures == 1:
                    log.warning("dead letter not written", extra={**self._where, "error": str(error)}, exc_info=True)
                await asyncio.sleep(backoff.next())

    async def _prepare_again(self, store: DeadLetters) -> None:
        """Once for all the letters that wait for it. Raises what the store raises."""
        if self._preparing is None or self._preparing.done():
            self._preparing = asyncio.create_task(store.prepare())
            self._preparing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._preparing)

    async def remove(
        self, letter: DeadLetter, place: DeadLetters | None = None, *, mine: bool = True, replaced: bool = False
    ) -> None:
        """Removes a letter. Raises what its place raises.

        `place`: a former place of the trigger that has it. `mine`: it is of this flow's function, so that `count` has
        it. `replaced`: its event failed again, and the present place has the new letter.
        """
        if replaced and mine and place is None:
            return  # the new letter is where the old one was
        holder = place or self.store
        assert holder is not None
        await holder.remove(letter)
        self.count = max(0, self.count + replaced - mine)
