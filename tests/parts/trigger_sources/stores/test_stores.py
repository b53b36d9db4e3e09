"""The contract of every store of the fabric: dead letters and inboxes, on one machine and on a cluster."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from servers.letters import letter
from servers.nats import nats_server

from trigger_sources.dead_letters import DeadLetters, DeadLettersOfFunctions, Unreadable
from trigger_sources.delivery import Attempt, Outcome
from trigger_sources.dispatch.host import EventStore
from trigger_sources.inbox import Inbox, Kept
from trigger_sources.stores.jetstream import JetStreamStore
from trigger_sources.stores.sqlite import Store

DONE = Outcome("delivered")
RETURNED = Outcome("returned")

Opens = Callable[[], AbstractAsyncContextManager[EventStore]]


@pytest.fixture(params=["sqlite", "jetstream"])
async def opens(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opens]:
    """Opens the store. Each call opens the same one."""
    if request.param == "sqlite":
        yield lambda: Store.open(tmp_path / "store.db")
        return
    async with nats_server() as server:
        yield lambda: JetStreamStore.open([server.url], replica="replica-0", ack_wait_seconds=3)


@asynccontextmanager
async def opened(opens: Opens, uid: str = "uid-1") -> AsyncIterator[Inbox]:
    async with opens() as store:
        inbox = store.inbox(uid)
        await inbox.prepare()
        yield inbox


async def taken(inbox: Inbox, count: int, limit: int = 100) -> list[Kept]:
    """Takes until there are so many records."""
    found: list[Kept] = []
    async with asyncio.timeout(15):
        while len(found) < count:
            found += await inbox.take(min(limit, count - len(found)), 1)
    return found


async def nothing_comes(inbox: Inbox, seconds: float = 0.3) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        assert [kept.record for kept in await inbox.take(100, left)] == []


async def until_count(inbox: Inbox, count: int) -> None:
    async with asyncio.timeout(10):
        while await inbox.count() != count:
            await asyncio.sleep(0.02)


def numbers(first: int, count: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


# --- dead letters


async def test_dead_letters_are_complete_oldest_first_and_unique_by_identity(opens: Opens) -> None:
    async with opens() as store:
        letters = store.dead_letters("uid-1", "pay")
        await letters.prepare()
        many = [letter(f"p/0/{number}", failed_at=1000.0 + number // 2) for number in range(40)]
        for one in many:  # a letter is written when its event fails, so the two orders are the same
            await letters.write(one)
        await letters.write(letter("p/0/0", failed_at=2000.0, data=None))
        await store.dead_letters("uid-1", "ship").write(letter("p/0/0", function="ship"))
        await store.dead_letters("uid-2", "pay").write(letter("p/0/0"))
    async with opens() as store:
        letters = store.dead_letters("uid-1", "pay")
        found = [one async for one in letters.letters()]
        assert len(found) == await letters.count() == 40
        assert [one.failed_at for one in found] == sorted(one.failed_at for one in found)
        assert found[-1] == letter("p/0/0", failed_at=2000.0, data=None)
        assert found[0] in many
        await letters.remove(found[-1])
        await letters.remove(found[-1])
        assert len([one async for one in letters.letters()]) == await letters.count() == 39
        others = store.dead_letters("uid-2", "pay")
        assert len([one async for one in others.letters()]) == await others.count() == 1


async def test_letters_that_fail_again_while_they_are_read_come_once(opens: Opens) -> None:
    """Also while the clock was ahead once, so that the last of them is one of the future."""
    async with opens() as store:
        place = store.dead_letters("uid-1", "f")
        await place.prepare()
        now = time.time()
        for number, failed_at in (("1", now - 50), ("2", now - 40), ("3", now + 86_400)):
            await place.write(letter(number, failed_at, "f"))
        seen: list[str] = []
        async for found in place.letters():
            seen.append(found.position)
            assert len(seen) < 20
            await place.write(replace(found, failed_at=time.time(), redriven=found.redriven + 1))
        assert seen == ["1", "2", "3"]
        assert await place.count() == 3


async def test_an_unprepared_store_has_no_dead_letters_and_writes_the_first_one(opens: Opens) -> None:
    async with opens() as store:
        letters = store.dead_letters("uid-1", "pay")
        assert [one async for one in letters.letters()] == []
        assert await letters.count() == 0
        await letters.remove(letter("p"))
        await letters.write(letter("p"))
        assert [one async for one in letters.letters()] == [letter("p")]


async def test_dead_letters_of_all_functions_of_a_trigger_are_found_and_removed(opens: Opens) -> None:
    async with opens() as store:
        await store.dead_letters("uid-1", "pay").prepare()
        assert await functions_of(store.dead_letters("uid-1", "pay")) == set()
        await store.dead_letters("uid-1", "ship").write(letter("p/0/0", function="ship"))
        await store.dead_letters("uid-1", "pay").write(letter("p/0/0"))
        await store.dead_letters("uid-2", "bill").write(replace(letter("p/0/1", function="bill"), trigger_uid="uid-2"))
        present = store.dead_letters("uid-1", "pay")
        assert await functions_of(present) == {"pay", "ship"}
        assert isinstance(present, DeadLettersOfFunctions)
        former = [one async for one in present.of("ship", never).letters()]
        assert former == [letter("p/0/0", function="ship")]
        await present.remove(former[0])
        assert await functions_of(present) == {"pay"}


async def functions_of(place: DeadLetters) -> set[str]:
    assert isinstance(place, DeadLettersOfFunctions)
    return set(await place.functions())


def never(found: Unreadable) -> None:
    raise AssertionError(found)


async def test_a_dead_letter_that_cannot_be_read_is_said_and_the_others_are_read(opens: Opens) -> None:
    async with opens() as store:
        place = store.dead_letters("uid-1", "pay")
        await place.prepare()
        for number in range(3):
            await place.write(letter(f"p/0/{number}", failed_at=number))
        await damage_the_second(store)
        unreadable: list[Unreadable] = []
        assert isinstance(place, DeadLettersOfFunctions)
        found = [one.position async for one in place.of("pay", unreadable.append).letters()]
        assert found == ["p/0/0", "p/0/2"]
        (one,) = unreadable
        assert "p/0/1" in one.place or "sequence 4" in one.place
        assert "not a dead letter" in one.problem
        assert [one.position async for one in place.letters()] == ["p/0/0", "p/0/2"]
        assert await place.count() == 3, "it is still there"
        assert await functions_of(place) == {"pay"}


async def damage_the_second(store: EventStore) -> None:
    """Replaces the second dead letter by something that is none."""
    if isinstance(store, Store):
        await store.run(
            lambda connection: (
                connection.execute(
                    "UPDATE dead_letters SET metadata = x'ff00', position = CAST(x'702f302f31ff' AS TEXT)"
                    " WHERE number = 2"
                ).rowcount
            )
        )
        return
    assert isinstance(store, JetStreamStore)
    connection = await store.connection()
    info = await connection.api("STREAM.INFO.kubeirq-dead-letters", {"subjects_filter": ">"})
    assert info["state"]["num_subjects"] == 3
    message = await connection.api("STREAM.MSG.GET.kubeirq-dead-letters", {"seq": 2})
    await connection.publish(message["message"]["subject"], [b"\x00\x00\x00\x02{}"])


# --- inboxes


async def test_records_come_in_order_and_none_twice_while_it_is_held(opens: Opens) -> None:
    async with opened(opens) as inbox:
        await inbox.append_all(numbers(0, 50))
        await inbox.append_all([])
        await inbox.append_all(numbers(50, 50))
        held = await taken(inbox, 100, limit=7)
        assert [kept.record for kept in held] == numbers(0, 100)
        assert {kept.handed_out for kept in held} == {1}
        assert len({kept.position for kept in held}) == 100
        await nothing_comes(inbox)
        assert await inbox.count() == 100, "held records count"


async def test_settled_records_are_gone_and_held_ones_come_again(opens: Opens) -> None:
    async with opened(opens) as inbox:
        await inbox.append_all(numbers(0, 20))
        held = await taken(inbox, 20)
        for kept in held[::2]:
            await kept.settle(DONE)
        await until_count(inbox, 10)
    async with opened(opens) as inbox:
        again = await taken(inbox, 10)
        assert [(kept.position, kept.record) for kept in again] == [(kept.position, kept.record) for kept in held[1::2]]
        await nothing_comes(inbox)


async def test_a_returned_record_comes_again_at_once_with_its_attempt_counted(opens: Opens) -> None:
    async with opened(opens) as inbox:
        await inbox.append_all(numbers(0, 3))
        first, second, third = await taken(inbox, 3)
        await second.settle(RETURNED)
        started = time.monotonic()
        (again,) = await taken(inbox, 1)
        assert time.monotonic() - started < 1
        assert (again.position, again.record, again.handed_out) == (second.position, b"1", 2)
        await nothing_comes(inbox)
        for kept in (first, again, third):
            await kept.settle(DONE)
        await until_count(inbox, 0)


async def test_a_record_returned_with_a_delay_comes_after_the_delay(opens: Opens) -> None:
    async with opened(opens) as inbox:
        await inbox.append_all(numbers(0, 1))
        (kept,) = await taken(inbox, 1)
        await kept.settle(Outcome("returned", after_seconds=0.6))
        await nothing_comes(inbox, 0.4)
        (again,) = await taken(inbox, 1)
        assert again.position == kept.position


async def test_a_take_ends_in_time_and_a_record_that_arrives_ends_it_sooner(opens: Opens) -> None:
    async with opened(opens) as inbox:
        started = time.monotonic()
        assert await inbox.take(10, 0.3) == []
        assert 0.2 < time.monotonic() - started < 1
        taking = asyncio.create_task(inbox.take(10, 10))
        await asyncio.sleep(0)
        await inbox.append_all([b"news"])
        (kept,) = await asyncio.wait_for(taking, 2)
        assert kept.record == b"news"


async def test_records_given_back_come_again_in_order_and_a_late_settle_does_no_harm(opens: Opens) -> None:
    async with opened(opens) as inbox:
        await inbox.append_all(numbers(0, 30))
        held = await taken(inbox, 20)
        await inbox.give_back()
        assert not inbox.must_give_back
        await held[0].settle(RETURNED)
        again = await taken(inbox, 30, limit=10)
        assert [kept.record for kept in again] == numbers(0, 30)
        await held[1].settle(RETURNED)
        await nothing_comes(inbox)
        with contextlib.suppress(ConnectionError):  # it may report that it is too late
            await held[2].settle(DONE)
        for kept in again:
            await kept.settle(DONE)
        await until_count(inbox, 0)


async def test_inboxes_of_two_triggers_are_separate(opens: Opens) -> None:
    async with opens() as store:
        one, two = store.inbox("uid-1"), store.inbox("uid-2")
        assert store.inbox("uid-1") is one
        for inbox in (one, two):
            await inbox.prepare()
            await inbox.prepare()
        await one.append_all([b"one"])
        await two.append_all([b"two"])
        assert (await one.count(), await two.count()) == (1, 1)
        (kept,) = await taken(one, 1)
        await nothing_comes(one)
        await kept.settle(DONE)
        await until_count(one, 0)
        assert [kept.record for kept in await taken(two, 1)] == [b"two"]


async def test_concurrent_appends_takes_and_settles_handle_every_record_once(opens: Opens) -> None:
    seen: list[bytes] = []
    async with opened(opens) as inbox:

        async def append(worker: int) -> None:
            for number in range(25):
                await inbox.append_all([b"%d/%d/%d" % (worker, number, part) for part in range(4)])

        async def settle() -> None:
            while len(seen) < 800:
                for number, kept in enumerate(await inbox.take(64, 1)):
                    if number % 5 == 0 and kept.handed_out == 1:
                        await kept.settle(RETURNED)
                        continue
                    seen.append(kept.record)
                    await kept.settle(DONE)

        async with asyncio.timeout(30):
            await asyncio.gather(settle(), *(append(worker) for worker in range(8)))
        await until_count(inbox, 0)
    assert len(set(seen)) == len(seen) == 800


async def test_a_big_record_and_its_dead_letter_are_kept(opens: Opens) -> None:
    async with opens() as store:
        inbox = store.inbox("uid-1")
        await inbox.prepare()
        body = bytes(range(256)) * ((inbox.largest_bytes or 1_000_000) // 256)
        await inbox.append_all([body])
        (kept,) = await taken(inbox, 1)
        assert kept.record == body
        letters = store.dead_letters("uid-1", "pay")
        attempt = Attempt(at=1.5, latency_seconds=0.1, status=500, answer_head=b"x" * 1024)
        big = replace(letter("p", data=body), attempts=(attempt,) * 100, headers=(("h", b"y" * 60_000),))
        await letters.write(big)
        assert [one.event.data async for one in letters.letters()] == [body]
