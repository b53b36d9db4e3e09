"""Replies are published as often as it takes, unless they are refused or a caller has waited for long enough."""

import asyncio
from collections.abc import Iterator

import pytest
from life.stage import ManualLoop

from trigger_sources.delivery import Answer, Delivery, Outcome
from trigger_sources.dispatch.held import Identity
from trigger_sources.dispatch.reply_sender import ReplyFailed, ReplySender
from trigger_sources.events import Event
from trigger_sources.publisher import ReplyRefused

ANSWER = Answer(200, (("content-type", "text/plain"),), b"found")


class Place:
    """A target whose next answers a test decides."""

    def __init__(self, *problems: Exception) -> None:
        self.problems = list(problems)
        self.published: list[tuple[Event, bytes | None]] = []
        self.closed = False

    async def publish(self, event: Event, key: bytes | None) -> None:
        if self.problems:
            raise self.problems.pop(0)
        self.published.append((event, key))

    async def close(self) -> None:
        self.closed = True


class PlaceOnce(Place):
    def __init__(self, *problems: Exception) -> None:
        super().__init__(*problems)
        self.identities: list[str] = []

    async def publish_once(self, event: Event, key: bytes | None, identity: str) -> None:
        self.identities.append(identity)
        await self.publish(event, key)


class Heard:
    """A sender, and what it says of its failures."""

    def __init__(self, place: Place) -> None:
        self.problems: list[str] = []
        self.delays: list[int] = []
        identity = Identity("LineTrigger", "default", "line", "uid", "f")
        self.sender = ReplySender(place, identity, {"trigger": "default/line"}, self.delay, self.problems.append)

    def delay(self, failures: int) -> float:
        self.delays.append(failures)
        return 1.0


async def settle(outcome: Outcome) -> None:
    raise AssertionError("a reply settles nothing")


def delivery(*, caller_waits: bool = False) -> Delivery:
    return Delivery(Event(id="1", source="/s", type="t"), settle, "p/1", b"key", caller_waits=caller_waits)


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    found = ManualLoop()
    yield found
    found.close()


def test_a_failure_leads_to_another_try_and_the_third_one_is_shown(loop: ManualLoop) -> None:
    place = Place(*[OSError("no such topic")] * 4)
    heard = Heard(place)

    async def play() -> None:
        task = asyncio.ensure_future(heard.sender.answer(delivery(), ANSWER))
        shown = []
        for _ in range(4):
            await loop.calm()
            shown.append(heard.sender.unpublished)
            assert loop.fire(lambda timer: True) == 1
        await task
        assert shown == ["", "", "reply not published: no such topic", "reply not published: no such topic"]

    loop.run_until_complete(play())
    assert [(event.id, event.data, key) for event, key in place.published] == [("1/f", b"found", b"key")]
    assert heard.delays == [1, 2, 3, 4]
    assert heard.problems == ["reply not published: no such topic"] * 4
    assert heard.sender.unpublished == ""


def test_an_answer_without_a_body_is_no_reply(loop: ManualLoop) -> None:
    place = Place()
    loop.run_until_complete(Heard(place).sender.answer(delivery(), Answer(204, (), b"")))
    assert not place.published


def test_a_reply_that_is_refused_is_not_tried_again(loop: ManualLoop) -> None:
    heard = Heard(Place(ReplyRefused("too large")))
    with pytest.raises(ReplyRefused, match="too large"):
        loop.run_until_complete(heard.sender.answer(delivery(), ANSWER))
    assert (heard.problems, heard.delays) == ([], [])


def test_each_try_has_the_identity_of_its_delivery(loop: ManualLoop) -> None:
    place = PlaceOnce(OSError("no broker"))
    heard = Heard(place)

    async def play() -> None:
        task = asyncio.ensure_future(heard.sender.answer(delivery(), ANSWER))
        await loop.calm()
        loop.fire(lambda timer: True)
        await task

    loop.run_until_complete(play())
    assert len(place.identities) == 2
    assert len(set(place.identities)) == 1


def test_a_caller_that_waits_gets_the_failure_once_its_time_is_over(
    loop: ManualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Place):
        async def publish(self, event: Event, key: bytes | None) -> None:
            await asyncio.get_running_loop().create_future()

    heard = Heard(Silent())

    async def play() -> None:
        task = asyncio.ensure_future(heard.sender.answer(delivery(caller_waits=True), ANSWER))
        await loop.calm()
        assert not task.done()
        over = loop.time() + 10.0
        monkeypatch.setattr(loop, "time", lambda: over)
        assert loop.fire(lambda timer: timer.when() == over) == 1
        await loop.calm()
        with pytest.raises(ReplyFailed, match="reply not published in time"):
            await task

    loop.run_until_complete(play())
    assert heard.problems == ["reply not published in time"]
    assert heard.delays == []


def test_the_target_is_closed_with_its_sender(loop: ManualLoop) -> None:
    place = Place()
    loop.run_until_complete(Heard(place).sender.close())
    assert place.closed
