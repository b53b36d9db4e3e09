"""Events that may end the process: a mark stands only while one is called, and only another process' mark is proof."""

import logging

import pytest

from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.dispatch.suspects import Suspects
from trigger_sources.events import Event
from trigger_sources.testing import MemoryState


async def settle(outcome: Outcome) -> None: ...


def delivery(handed_out: int, position: str | None = "p/1") -> Delivery:
    return Delivery(Event(id="1", source="/s", type="t"), settle, position, handed_out=handed_out)


def test_an_event_is_suspect_when_it_was_handed_out_more_than_five_times() -> None:
    assert [Suspects.is_suspect(delivery(count)) for count in (1, 5, 6)] == [False, False, True]
    assert not Suspects.is_suspect(delivery(99, None)), "nothing tells its hand-outs apart"


async def test_a_mark_of_an_earlier_process_is_proof_once() -> None:
    state = MemoryState()
    await Suspects(state, b"one").mark("p/1")
    assert await Suspects(state, b"two").is_proven("p/1"), "the process ended while it called this event"
    assert not await Suspects(state, b"two").is_proven("p/1"), "a redriven event gets another chance"


async def test_a_process_ignores_its_own_mark_even_in_a_flow_that_starts_again() -> None:
    state = MemoryState()
    await Suspects(state).mark("p/1")
    assert not await Suspects(state).is_proven("p/1")


async def test_a_call_that_ended_leaves_no_mark() -> None:
    state = MemoryState()
    suspects = Suspects(state, b"one")
    await suspects.mark("p/1")
    await suspects.unmark("p/1")
    assert not await Suspects(state, b"two").is_proven("p/1")


async def test_an_event_that_was_not_marked_needs_no_write() -> None:
    class Broken(MemoryState):
        async def delete(self, key: str) -> None:
            raise AssertionError

    await Suspects(Broken()).unmark("p/1")


async def test_a_mark_that_cannot_be_removed_costs_the_event_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryState):
        async def delete(self, key: str) -> None:
            raise OSError("disk full")

    suspects = Suspects(Broken())
    await suspects.mark("p/1")
    with caplog.at_level(logging.WARNING):
        await suspects.unmark("p/1")
    assert "mark not removed" in caplog.text
