"""Dead letters are written as often as it takes, in the largest form that their place takes."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from life.stage import ManualLoop

from trigger_sources.dead_letters import DeadLetter, LetterTooLarge
from trigger_sources.delivery import Attempt
from trigger_sources.dispatch.letter_writer import LetterWriter
from trigger_sources.events import Event

LETTER = DeadLetter(
    trigger_uid="u", namespace="default", trigger="t", function="f", position="p/1",
    event=Event(id="1", source="/s", type="t", data=b"kept"), reason="PermanentAnswer", message="status 400",
    failed_at=1.0, attempts=(Attempt(1.0, 0.1, 400, "", b"why"), Attempt(2.0, 0.1, 400, "", b"why")),
)  # fmt: skip


class Place:
    """A store whose next answers a test decides."""

    def __init__(self, *problems: Exception | None) -> None:
        self.problems = list(problems)
        self.written: list[DeadLetter] = []
        self.prepared = 0

    async def prepare(self) -> None:
        self.prepared += 1

    async def write(self, letter: DeadLetter) -> None:
        problem = self.problems.pop(0) if self.problems else None
        if problem is not None:
            raise problem
        self.written.append(letter)


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    found = ManualLoop()
    yield found
    found.close()


def write(loop: ManualLoop, writer: LetterWriter, waits: int) -> None:
    async def play() -> None:
        task = asyncio.ensure_future(writer.write(lambda: LETTER))
        for _ in range(waits):
            await loop.calm()
            assert not task.done()
            assert writer.unwritable
            assert loop.fire(lambda timer: True) == 1
        await task

    loop.run_until_complete(play())


def writer_to(place: Place) -> LetterWriter:
    writer = LetterWriter({"trigger": "default/t"})
    writer.store = place  # type: ignore[assignment]
    return writer


def test_a_failure_leads_to_another_try_and_the_place_is_made_again_before(loop: ManualLoop) -> None:
    place = Place(OSError("no such topic"), OSError("no such topic"))
    writer = writer_to(place)
    write(loop, writer, waits=2)
    assert place.written == [LETTER]
    assert place.prepared == 2
    assert (writer.count, writer.unwritable) == (1, "")


def test_a_letter_that_is_too_large_loses_answers_then_attempts_and_never_the_event(loop: ManualLoop) -> None:
    place = Place(LetterTooLarge("20 kB"))
    write(loop, writer_to(place), waits=0)
    assert [attempt.answer_head for attempt in place.written[0].attempts] == [b"", b""]
    place = Place(LetterTooLarge("20 kB"), LetterTooLarge("20 kB"))
    write(loop, writer_to(place), waits=0)
    assert place.written[0].attempts == ()
    assert place.written[0].event == LETTER.event


def test_an_event_that_no_form_of_its_letter_fits_waits_and_says_so(loop: ManualLoop) -> None:
    place = Place(*[LetterTooLarge("topic 't': max.message.bytes")] * 3)
    writer = writer_to(place)
    write(loop, writer, waits=1)
    assert place.written, "somebody moved the bound"


def test_a_redriven_event_that_fails_again_is_no_further_dead_letter(loop: ManualLoop) -> None:
    writer = writer_to(Place())

    async def play() -> None:
        await writer.write(lambda: replace(LETTER, redriven=1))

    loop.run_until_complete(play())
    assert writer.count == 0


def test_many_letters_that_are_not_written_prepare_their_place_together(loop: ManualLoop) -> None:
    """Each of them would open clients of its own."""

    class Busy(Place):
        at_once = most = 0

        async def prepare(self) -> None:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await asyncio.sleep(0)
            self.at_once -= 1
            await super().prepare()
            if self.prepared == 1:
                raise OSError("no broker")

    place = Busy(*[OSError("no broker")] * 50)

    async def play() -> None:
        writer = writer_to(place)
        tasks = [asyncio.ensure_future(writer.write(lambda: LETTER)) for _ in range(50)]
        for _ in range(2):
            await loop.calm()
            assert loop.fire(lambda timer: True) == 50
        await asyncio.gather(*tasks)

    loop.run_until_complete(play())
    assert len(place.written) == 50
    assert (place.prepared, place.most) == (2, 1)


def test_a_letter_that_is_not_written_is_said_until_it_is_though_others_are(loop: ManualLoop) -> None:
    place = Place(*[LetterTooLarge("topic 't': max.message.bytes")] * 6)
    writer = writer_to(place)

    async def play() -> None:
        stuck = asyncio.ensure_future(writer.write(lambda: LETTER))
        await loop.calm()
        place.problems, problems = [], place.problems
        await writer.write(lambda: replace(LETTER, position="p/2"))
        assert "max.message.bytes" in writer.unwritable
        place.problems = problems
        stuck.cancel()  # as when another replica gets the partition
        await asyncio.gather(stuck, return_exceptions=True)
        assert writer.unwritable == ""

    loop.run_until_complete(play())
