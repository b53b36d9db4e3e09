"""An edit of the place of dead letters: those in the former place are told, and an edit back brings them back."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from servers.kafka import shared_kafka
from servers.letters import letter
from servers.nats import nats_server

from trigger_sources.dispatch.former_places import left_letters, remember_place
from trigger_sources.kafka import KafkaTrigger
from trigger_sources.nats import NATSTrigger
from trigger_sources.source import TriggerSource
from trigger_sources.testing import StandInContext


class Edited:
    """A trigger whose `deadLetter.name` is edited."""

    def __init__(self, kind: type[TriggerSource], context: StandInContext, **fields: Any) -> None:
        self.kind, self.context, self.fields = kind, context, fields
        self.prefix = f"dead-{uuid4().hex[:8]}"

    async def named(self, name: str | None) -> TriggerSource:
        """The trigger with that name, as a flow begins with it."""
        place = {} if name is None else {"delivery": {"deadLetter": {"name": f"{self.prefix}-{name}"}}}
        found = self.kind.model_validate({"function": "f", **self.fields, **place})
        await remember_place(found, self.context)
        letters = found.dead_letters(self.context)
        assert letters is not None
        await letters.prepare()
        return found

    async def write(self, trigger: TriggerSource, number: int) -> None:
        letters = trigger.dead_letters(self.context)
        assert letters is not None
        await letters.prepare()
        mine = replace(letter(str(number), function=self.context.function), trigger_uid=self.context.uid)
        await letters.write(mine)

    async def left(self, trigger: TriggerSource) -> list[str]:
        return [line.replace(f"{self.prefix}-", "") for line in await left_letters(trigger, self.context)]


@pytest.fixture(params=["kafka", "nats"])
async def edited(request: pytest.FixtureRequest) -> AsyncIterator[Edited]:
    context = StandInContext(name=f"t-{uuid4().hex[:8]}", uid=f"uid-{uuid4().hex[:8]}")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(context.close)
        if request.param == "kafka":
            yield Edited(KafkaTrigger, context, brokers=[(await shared_kafka()).bootstrap], topics=["t"])
        else:
            server = await stack.enter_async_context(nats_server())
            yield Edited(NATSTrigger, context, servers=[server.url], subject="s")


async def test_dead_letters_in_a_former_place_are_told_with_the_way_out(edited: Edited) -> None:
    default = await edited.named(None)
    await edited.write(default, 1)
    one = await edited.named("one")
    assert await edited.left(one) == [
        "1 dead letters in the default place, from before spec.delivery.deadLetter.name was changed; to redrive or"
        " purge them, take it out for as long as that takes"
    ]
    await edited.write(one, 2)
    await edited.write(one, 3)
    two = await edited.named("two")
    assert [line.partition(",")[0] for line in await edited.left(two)] == [
        "2 dead letters in 'one'", "1 dead letters in the default place",
    ]  # fmt: skip
    assert "set it to 'one' for as long as that takes" in (await edited.left(two))[0]
    back = await edited.named("one")
    assert [line.partition(",")[0] for line in await edited.left(back)] == ["1 dead letters in the default place"]


async def test_a_place_that_was_never_made_has_no_dead_letters(edited: Edited) -> None:
    """Nor is it made by looking."""
    assert await edited.left(await edited.named("one")) == []
    assert await edited.left(await edited.named("two")) == []


@pytest.mark.parametrize("damaged", [b"", b"{", b"null", b"[1]", b"\xff"])
async def test_a_damaged_note_of_former_places_stops_no_trigger(damaged: bytes) -> None:
    context = StandInContext()
    await context.state.put("dead-letter-names", damaged)
    trigger = NATSTrigger.model_validate({
        "function": "f", "subject": "s", "delivery": {"deadLetter": {"name": "letters"}},
    })  # fmt: skip
    await remember_place(trigger, context)
    assert await context.state.get("dead-letter-names") == b'["letters"]'
