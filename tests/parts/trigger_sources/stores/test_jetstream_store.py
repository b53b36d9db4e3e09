"""The JetStream store on real servers that are killed and restarted, shared by replicas, always in order."""

import asyncio
import random
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import psutil
import pytest
from servers.ledger import Books, clean, judge
from servers.nats import NATSServer, nats_server

from trigger_sources.delivery import Outcome
from trigger_sources.inbox import Inbox, Kept
from trigger_sources.source import SourceError
from trigger_sources.stores.jetstream import INBOX, JetStreamStore

DONE = Outcome("delivered")
ACK_WAIT_SECONDS = 3.0


@asynccontextmanager
async def opened(server: NATSServer, replica: str = "replica-0", **more: Any) -> AsyncIterator[JetStreamStore]:
    arguments = {"ack_wait_seconds": ACK_WAIT_SECONDS, **more}
    async with JetStreamStore.open([server.url], replica=replica, **arguments) as store:
        yield store


@asynccontextmanager
async def inbox_on(server: NATSServer, replica: str = "replica-0", **more: Any) -> AsyncIterator[Inbox]:
    async with opened(server, replica, **more) as store:
        inbox = store.inbox("uid-1")
        await inbox.prepare()
        yield inbox


async def taken(inbox: Inbox, count: int, seconds: float = 15, in_order: bool = False) -> list[Kept]:
    """Takes until there are so many records."""
    found: list[Kept] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            try:
                found += await inbox.take(count - len(found), 0.5, in_order=in_order)
            except SourceError:
                await asyncio.sleep(0.05)
    return found


async def nothing_comes(inbox: Inbox, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        found = await inbox.take(100, min(left, 0.5))
        assert [(kept.record, kept.handed_out) for kept in found] == []


async def until_count(inbox: Inbox, count: int) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                if await inbox.count() == count:
                    return
            except SourceError:
                pass  # the server is restarting
            await asyncio.sleep(0.02)


async def until_works(inbox: Inbox, records: list[bytes]) -> None:
    """Appends, and repeats that until the server accepts it."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await inbox.append_all(records)
            except SourceError:
                await asyncio.sleep(0.02)


def numbers(first: int, count: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


async def pause(server: NATSServer) -> None:
    """Returns when the process is paused: SIGSTOP does not work at once."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(5):
        while any(
            psutil.Process(thread.id).status() != psutil.STATUS_STOPPED
            for thread in psutil.Process(server.process.pid).threads()
        ):
            await asyncio.sleep(0.01)


async def stream_info(server: NATSServer) -> Any:
    connection = await nats.connect(server.url)
    try:
        return await connection.jetstream().stream_info(INBOX)
    finally:
        await connection.close()


# --- server restarts


async def test_the_store_connects_on_first_use_and_names_the_address_that_does_not_answer() -> None:
    async with nats_server() as server:
        await server.kill()
        async with opened(server) as store:
            inbox = store.inbox("uid-1")
            for use in (inbox.prepare, inbox.count, store.dead_letters("uid-1", "f").prepare):
                with pytest.raises(SourceError, match=f"the fabric's store: nats://127.0.0.1:{server.port}") as refused:
                    await use()
                assert refused.value.reason == "StoreUnavailable"
            await server.start()
            await inbox.prepare()
            await inbox.append_all([b"one"])
            assert await inbox.count() == 1


async def test_while_the_server_is_away_every_use_fails_at_once_and_no_stored_record_is_lost() -> None:
    async with nats_server() as server, inbox_on(server) as inbox:
        await inbox.append_all(numbers(0, 50))
        held = await taken(inbox, 10)
        await server.kill()
        started = time.monotonic()
        refused = 0
        async with asyncio.timeout(10):
            while refused < 20:
                for use in (inbox.append_all([b"no"]), inbox.count(), inbox.take(1, 1)):
                    (found,) = await asyncio.gather(use, return_exceptions=True)
                    if isinstance(found, BaseException):
                        assert isinstance(found, SourceError)
                        assert found.reason == "StoreUnavailable"
                        refused += 1
        assert time.monotonic() - started < 3
        await server.start()
        rest = await taken(inbox, 40)
        assert [kept.record for kept in rest] == numbers(10, 40)
        for kept in (*held, *rest):
            await kept.settle(DONE)
        await until_count(inbox, 0)


async def test_records_go_back_in_order_to_a_server_that_is_slow_to_answer() -> None:
    """A pull that the server still had would take the first record that goes back, until its deadline passes."""
    async with nats_server() as server, inbox_on(server) as inbox:
        await inbox.append_all(numbers(0, 20))
        await taken(inbox, 20)
        await pause(server)
        giving_back = asyncio.create_task(inbox.give_back())
        await asyncio.wait({giving_back}, timeout=1.5)
        assert server.process is not None
        server.process.send_signal(signal.SIGCONT)
        await giving_back
        assert [kept.record for kept in await taken(inbox, 20)] == numbers(0, 20)


async def test_an_append_in_progress_fails_at_once_when_the_connection_is_lost() -> None:
    async with nats_server() as server, inbox_on(server) as inbox:
        await pause(server)
        appending = asyncio.create_task(inbox.append_all([b"x"]))
        await asyncio.sleep(0.1)
        await server.kill()
        with pytest.raises(SourceError) as refused:
            await asyncio.wait_for(appending, 2)
        assert refused.value.reason == "StoreUnavailable"


@pytest.mark.timeout(150)
async def test_records_settled_around_a_crash_of_the_server_do_not_come_again() -> None:
    """Acknowledgements get lost in every way: not sent, not received, or received and not written."""
    async with nats_server() as server, inbox_on(server) as inbox:
        for round_ in range(6):
            await until_works(inbox, numbers(round_ * 1_000, 300))
            held = await taken(inbox, 300)
            for kept in held[:100]:
                await kept.settle(DONE)
            if round_ % 2:
                await asyncio.sleep(0.1)  # confirmed, and perhaps not yet written
            await server.kill()
            for kept in held[100:200]:
                await kept.settle(DONE)
            await server.start()
            for kept in held[200:]:
                await kept.settle(DONE)
            again = []
            until = time.monotonic() + ACK_WAIT_SECONDS + 1.5
            while time.monotonic() < until:
                try:
                    again += await inbox.take(1_000, 0.5)
                except SourceError:
                    await asyncio.sleep(0.05)
            assert [kept.record for kept in again] == []
            await until_count(inbox, 0)


async def test_records_held_across_a_restart_of_the_server_are_not_handed_out_again() -> None:
    async with nats_server() as server, inbox_on(server) as inbox:
        await inbox.append_all(numbers(0, 20))
        held = await taken(inbox, 20)
        await server.kill()
        await asyncio.sleep(ACK_WAIT_SECONDS + 0.5)  # too long to extend anything
        await server.start()
        await until_works(inbox, [b"new"])
        (new,) = await taken(inbox, 1)
        assert new.record == b"new"
        await nothing_comes(inbox, ACK_WAIT_SECONDS + 1)
        for kept in (*held, new):
            await kept.settle(DONE)
        await until_count(inbox, 0)


async def test_an_extended_record_is_not_handed_out_to_another_replica() -> None:
    async with nats_server() as server, inbox_on(server, "one") as one, inbox_on(server, "two") as two:
        await one.append_all(numbers(0, 5))
        held = await taken(one, 5)
        until = time.monotonic() + 2.5 * ACK_WAIT_SECONDS
        while time.monotonic() < until:
            for kept in held:
                assert kept.extend is not None
                await kept.extend()
            assert await two.take(10, 0.5) == []


async def test_records_that_wait_in_this_replica_are_not_counted_as_handed_out() -> None:
    async with nats_server() as server, inbox_on(server) as inbox:
        await inbox.append_all(numbers(0, 10))
        (first,) = await taken(inbox, 1)
        await inbox.take(5, 0.2)
        await asyncio.sleep(2 * ACK_WAIT_SECONDS)  # no one takes records, and those already pulled wait
        rest = await inbox.take(10, 1)
        assert {kept.handed_out for kept in (first, *rest)} == {1}


async def test_a_flush_that_times_out_leaves_the_connection_working() -> None:
    async with nats_server() as server, opened(server) as store:
        inbox = store.inbox("uid-1")
        await inbox.prepare()
        connection = await store.connection()
        assert server.process is not None
        for _ in range(3):
            await pause(server)
            flushing = asyncio.create_task(connection.flush(10))
            with pytest.raises(TimeoutError):
                await connection.flush(0.05)
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
            server.process.send_signal(signal.SIGCONT)
            await asyncio.wait_for(inbox.append_all([b"x"]), 2)


async def test_giving_back_while_acknowledgements_are_confirmed_ends_and_does_no_harm() -> None:
    dice = random.Random(1)
    async with nats_server() as server, inbox_on(server) as inbox:
        for _ in range(60):
            await asyncio.wait_for(inbox.append_all([b"x"]), 2)
            (kept,) = await taken(inbox, 1)
            await kept.settle(DONE)
            until = time.monotonic() + 0.05 + dice.random() * 0.0012  # about the moment of their confirmation
            while time.monotonic() < until:
                await asyncio.sleep(0)
            await asyncio.wait_for(inbox.give_back(), 2)


# --- replicas


async def test_two_replicas_share_the_records_and_neither_gets_one_that_the_other_holds() -> None:
    async with nats_server() as server, inbox_on(server, "one") as one, inbox_on(server, "two") as two:
        seen: dict[str, list[bytes]] = {"one": [], "two": []}

        async def work(name: str, inbox: Inbox) -> None:
            while sum(map(len, seen.values())) < 1_000:
                for kept in await inbox.take(10, 0.5):
                    seen[name].append(kept.record)
                    await kept.settle(DONE)

        async def append() -> None:
            for first in range(0, 1_000, 50):
                await (one if first % 100 else two).append_all(numbers(first, 50))

        async with asyncio.timeout(30):
            await asyncio.gather(append(), work("one", one), work("two", two))
        found = judge(Books(dict.fromkeys(range(1_000)), [int(record) for record in seen["one"] + seen["two"]]))
        assert str(found) == clean(1_000), found.breaches
        assert seen["one"]
        assert seen["two"]


async def test_a_replica_that_may_not_take_can_still_append() -> None:
    async with (
        nats_server() as server,
        inbox_on(server, "holder") as holder,
        inbox_on(server, "other", may_take=lambda uid: False) as other,
    ):
        await other.append_all(numbers(0, 3))
        await nothing_comes(other, 0.5)
        assert await other.count() == 3
        assert not other.must_give_back
        assert [kept.record for kept in await taken(holder, 3)] == numbers(0, 3)


async def test_a_replica_that_loses_its_turn_gives_records_back_and_the_next_gets_them_in_order_at_once() -> None:
    turn = "one"
    async with (
        nats_server() as server,
        inbox_on(server, "one", may_take=lambda uid: turn == "one", ack_wait_seconds=30) as one,
        inbox_on(server, "two", may_take=lambda uid: turn == "two", ack_wait_seconds=30) as two,
    ):
        await one.append_all(numbers(0, 100))
        for round_ in range(10):
            giver, taker = (one, two) if turn == "one" else (two, one)
            held = await taken(giver, 30, in_order=True)
            assert [kept.record for kept in held] == numbers(0, 30)
            turn = "two" if turn == "one" else "one"
            assert giver.must_give_back
            taking = asyncio.create_task(taken(taker, 60, 10, in_order=True))
            await asyncio.sleep(0.05 * (round_ % 3))
            await giver.give_back()
            assert not giver.must_give_back
            found = await taking
            assert [kept.record for kept in found] == numbers(0, 60), f"round {round_}"
            await taker.give_back()


async def test_newer_records_wait_until_a_replica_has_settled_those_that_it_still_holds() -> None:
    turn = "one"
    async with (
        nats_server() as server,
        inbox_on(server, "one", may_take=lambda uid: turn == "one") as one,
        inbox_on(server, "two", may_take=lambda uid: turn == "two") as two,
    ):
        await one.append_all(numbers(0, 20))
        held = await taken(one, 10, in_order=True)
        turn = "two"
        taking = asyncio.create_task(taken(two, 12, in_order=True))
        for kept in held[:8]:  # calls in progress there may finish
            await asyncio.sleep(0.1)
            assert not taking.done()
            await kept.settle(DONE)
        await one.give_back()
        assert [kept.record for kept in await taking] == numbers(8, 12)


HOLDER = """
import asyncio, sys
from trigger_sources.stores.jetstream import JetStreamStore

async def main():
    async with JetStreamStore.open([sys.argv[1]], replica="dies", ack_wait_seconds=3) as store:
        inbox = store.inbox("uid-1")
        held = []
        while len(held) < 10:
            held += await inbox.take(10 - len(held), 1, in_order=True)
        print(*sorted({kept.handed_out for kept in held}), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_records_of_a_killed_holder_come_to_the_next_in_order_with_their_attempt_counted() -> None:
    async with nats_server() as server, inbox_on(server, "lives") as inbox:
        await inbox.append_all(numbers(0, 30))
        for times in range(1, 3):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", textwrap.dedent(HOLDER), server.url, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert process.stdout is not None
                assert int(await asyncio.wait_for(process.stdout.readline(), 20)) == times
            finally:
                process.kill()
                await process.wait()
        found = await taken(inbox, 30, in_order=True)
        assert [kept.record for kept in found] == numbers(0, 30)
        assert [kept.handed_out for kept in found[:10]] == [3] * 10
        assert [kept.handed_out for kept in found[20:]] == [1] * 10, "records that no holder had fetched"


# --- actions of operators


async def test_a_deleted_consumer_or_stream_is_created_again_with_different_positions() -> None:
    async with nats_server() as server, inbox_on(server) as inbox:
        await inbox.append_all(numbers(0, 10))
        first = await taken(inbox, 5)
        connection = await nats.connect(server.url)
        stream = connection.jetstream()
        (consumer,) = await stream.consumers_info(INBOX)
        await stream.delete_consumer(INBOX, consumer.name)
        rest = await taken(inbox, 5)
        assert [kept.record for kept in rest] == numbers(5, 5), "held records are not handed out again"
        await first[0].settle(DONE)
        await nothing_comes(inbox, 1)
        await until_count(inbox, 9)
        await stream.delete_stream(INBOX)
        taking = asyncio.create_task(taken(inbox, 1, 20))
        await until_works(inbox, [b"after"])
        (after,) = await taking
        assert after.record == b"after"
        assert after.position not in {kept.position for kept in (*first, *rest)}
        await connection.close()


async def test_a_stream_that_would_lose_accepted_events_is_refused_with_the_reason() -> None:
    async with nats_server() as server:
        connection = await nats.connect(server.url)
        await connection.jetstream().add_stream(name=INBOX, subjects=[f"$KUBEIRQ.inbox.{INBOX}.*"])
        await connection.close()
        async with opened(server) as store:
            with pytest.raises(SourceError, match=rf"stream {INBOX}: retention limits .* loses accepted events"):
                await store.inbox("uid-1").prepare()


async def test_a_full_stream_refuses_new_records_and_keeps_old_ones() -> None:
    async with nats_server() as server, inbox_on(server) as inbox:
        connection = await nats.connect(server.url)
        config = (await connection.jetstream().stream_info(INBOX)).config
        await connection.jetstream().update_stream(config.evolve(max_msgs=5))
        await connection.close()
        await inbox.prepare()
        await inbox.append_all(numbers(0, 5))
        with pytest.raises(SourceError, match="maximum messages exceeded"):
            await inbox.append_all([b"too many"])
        assert [kept.record for kept in await taken(inbox, 5)] == numbers(0, 5)


async def test_a_batch_that_is_appended_again_under_its_name_is_there_once() -> None:
    """A caller cannot know what became of a write whose answer did not come."""
    async with nats_server() as server, inbox_on(server) as inbox:
        await inbox.append_all(numbers(0, 3), "one")
        await inbox.append_all(numbers(0, 5), "one")
        await inbox.append_all(numbers(0, 3), "two")
        assert [kept.record for kept in await taken(inbox, 8)] == [*numbers(0, 5), *numbers(0, 3)]
        assert await inbox.count() == 8


async def test_a_stream_that_is_full_by_bytes_has_no_room_for_a_record_of_that_size() -> None:
    async with nats_server() as server, inbox_on(server) as inbox:
        connection = await nats.connect(server.url)
        config = (await connection.jetstream().stream_info(INBOX)).config
        await connection.jetstream().update_stream(config.evolve(max_bytes=10_000))
        await connection.close()
        with pytest.raises(SourceError, match="maximum bytes exceeded"):
            for _ in range(20):
                await inbox.append_all([b"x" * 1_000])
        with pytest.raises(SourceError, match="of at most 10000") as full:
            await inbox.check_room(1_000)
        assert full.value.reason == "StoreFull"
        (kept,) = await taken(inbox, 1)
        await kept.settle(Outcome("delivered"))
        await inbox.check_room(1_000)


async def test_a_record_over_the_servers_limit_is_refused_with_the_reason() -> None:
    async with nats_server(config="max_payload: 65536") as server, inbox_on(server) as inbox:
        assert inbox.largest_bytes == 49152
        with pytest.raises(SourceError, match=r"takes at most 65536 bytes \(max_payload\)"):
            await inbox.append_all([b"x" * 70_000])
        await inbox.append_all([b"x" * 49152])


@pytest.mark.parametrize(
    ("denied", "words"),
    [("$JS.API.STREAM.CREATE.>", "STREAM.CREATE"), ("$KUBEIRQ.>", "KUBEIRQ"), ("$JS.API.CONSUMER.>", "CONSUMER")],
)
async def test_a_missing_right_is_reported_before_the_first_event(denied: str, words: str) -> None:
    config = f"""
    authorization {{ users = [{{
        user: fabric, password: secret,
        permissions: {{ publish: {{ deny: ["{denied}"] }} }}
    }}] }}
    """
    async with nats_server(config=config) as server:
        url = server.url.replace("nats://", "nats://fabric:secret@")
        async with JetStreamStore.open([url], replica="r") as store:
            with pytest.raises(SourceError, match=rf"(?i)permissions violation.*{words}") as refused:
                await store.inbox("uid-1").prepare()
            assert refused.value.reason == "Unauthorized"
            assert "secret" not in str(refused.value)


async def test_a_refused_login_is_reported_without_its_password_and_retried() -> None:
    async with nats_server(config="authorization { user: fabric, password: right }") as server:
        url = server.url.replace("nats://", "nats://fabric:wrong@")
        async with JetStreamStore.open([url], replica="r") as store:
            for _ in range(2):
                with pytest.raises(SourceError, match=r"(?i)authorization") as refused:
                    await store.inbox("uid-1").prepare()
                assert refused.value.reason == "StoreUnavailable"
                assert "wrong" not in str(refused.value)


async def test_each_trigger_has_one_consumer_that_outlives_replicas() -> None:
    async with nats_server() as server:
        for replica in ("one", "two"):
            async with opened(server, replica) as store:
                for uid in ("a", "b"):
                    await store.inbox(uid).prepare()
                    await store.inbox(uid).take(1, 0)
        assert (await stream_info(server)).state.consumer_count == 2
