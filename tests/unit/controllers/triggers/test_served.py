"""A replica tells the others what changed since they asked last, or everything if they do not know it."""

import asyncio
from typing import Any

import pytest

from controllers.triggers import served
from controllers.triggers.served import Served, ServedTriggers


def ready(generation: int) -> Served:
    return Served(generation, "True", "Ready", "")


async def asked(triggers: ServedTriggers, since: str = "") -> tuple[str, bool, dict[str, Any]]:
    answer = await triggers.answer(since, 0.01)
    changes = {uid: found and found[0] for uid, found in answer["triggers"].items()}
    return answer["since"], answer["whole"], changes


async def test_an_answer_has_what_changed_since_the_last_one() -> None:
    triggers = ServedTriggers("one")
    triggers.tell("a", ready(1))
    triggers.tell("b", ready(1))
    since, whole, changes = await asked(triggers)
    assert (whole, changes) == (True, {"a": 1, "b": 1})
    triggers.tell("a", ready(1))
    assert await asked(triggers, since) == (since, False, {})
    triggers.tell("b", ready(2))
    triggers.tell("c", ready(1))
    triggers.tell("a", None)
    later, whole, changes = await asked(triggers, since)
    assert (whole, changes) == (False, {"a": None, "b": 2, "c": 1})
    assert await asked(triggers, later) == (later, False, {})
    triggers.retain({"c"})
    assert (await asked(triggers, later))[2] == {"b": None}


@pytest.mark.parametrize("since", ["", "nonsense", "another.1", ".", "another."])
async def test_an_asker_that_does_not_know_the_process_gets_everything_that_is_served(since: str) -> None:
    triggers = ServedTriggers("one")
    triggers.tell("a", ready(1))
    triggers.tell("b", ready(1))
    triggers.tell("a", None)
    assert (await asked(triggers, since))[1:] == (True, {"b": 1})


async def test_triggers_that_are_gone_take_no_memory_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_MOST_GONE", 3)
    triggers = ServedTriggers("one")
    triggers.tell("kept", ready(1))
    since = (await asked(triggers))[0]
    for number in range(100):
        triggers.tell(str(number), ready(1))
        triggers.tell(str(number), None)
    assert len(triggers._table) <= 4
    assert (await asked(triggers, since))[1:] == (True, {"kept": 1})


async def test_an_answer_without_news_waits_for_some() -> None:
    triggers = ServedTriggers("one")
    triggers.tell("a", ready(1))
    since = (await asked(triggers))[0]
    waiting = [asyncio.create_task(triggers.answer(since, 60)) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    triggers.tell("a", ready(2))
    async with asyncio.timeout(10):
        assert [(await task)["triggers"] for task in waiting] == [{"a": [2, "True", "Ready", ""]}] * 2


async def test_a_replica_that_begins_to_take_requests_or_stops_answers_at_once() -> None:
    triggers = ServedTriggers("one")
    since = (await triggers.answer("", 60))["since"]
    waiting = asyncio.create_task(triggers.answer(since, 60))
    await asyncio.sleep(0)
    triggers.takes_requests()
    async with asyncio.timeout(10):
        answer = await waiting
        assert answer["takesRequests"]
        waiting = asyncio.create_task(triggers.answer(answer["since"], 60))
        await asyncio.sleep(0)
        triggers.close()
        assert (await waiting)["triggers"] == {}
        assert (await triggers.answer(answer["since"], 60))["triggers"] == {}
