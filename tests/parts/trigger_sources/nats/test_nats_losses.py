"""Messages that a stream loses before they are read are counted and reported, each one once and no other message."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from servers.nats import NATSServer, nats_server
from servers.nats_source import DONE, JetStream, Reader, jetstream, later, reading, trigger

from trigger_sources.delivery import Outcome
from trigger_sources.testing import StandInContext

CONSUMER = "kubeirq-default-trigger-function"
PURGES: list[tuple[dict[str, Any], int]] = [({}, 7), ({"filter": "s.*"}, 7), ({"keep": 2}, 5), ({"seq": 10}, 4)]


def spec_for(server: NATSServer, **spec: Any) -> Any:
    return trigger(server.url, subject="s.>", **spec)


def lost(*contexts: StandInContext) -> int:
    return sum(count for context in contexts for count, _ in context.lost)


async def purge(js: JetStream, **request: Any) -> None:
    answer = await js.api("STREAM.PURGE.S", request)
    assert answer.get("success"), answer


async def delete(js: JetStream, *sequences: int) -> None:
    for sequence in sequences:
        answer = await js.api("STREAM.MSG.DELETE.S", {"seq": sequence})
        assert answer.get("success"), answer


async def until_lost(reader: Reader, count: int, *others: StandInContext) -> None:
    """Looks until so many are lost, and once more."""
    async with asyncio.timeout(15):
        while lost(reader.context, *others) < count:
            await reader.spec.lag(reader.context)
            await asyncio.sleep(0.05)
    await reader.spec.lag(reader.context)
    assert lost(reader.context, *others) == count


async def until_settled(js: JetStream, calls: int) -> None:
    async with asyncio.timeout(10):
        while (await js.consumer("S", CONSUMER))["ack_floor"]["consumer_seq"] < calls:
            await asyncio.sleep(0.02)


async def read_and_stop(server: NATSServer, js: JetStream, context: StandInContext, count: int) -> None:
    async with reading(spec_for(server), context) as reader:
        await js.publish("s.1", count)
        await reader.until(count)
        await reader.spec.lag(context)
        await until_settled(js, count)


# --- while the trigger is suspended


@pytest.mark.parametrize(("request_", "count"), PURGES)
async def test_messages_that_are_purged_while_the_trigger_is_suspended_are_counted_once(
    request_: dict[str, Any], count: int
) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        await read_and_stop(server, js, context, 5)
        await js.publish("s.2", 7)
        await purge(js, **request_)
        context = later(context)
        async with reading(spec_for(server), context) as reader:
            assert context.lost == [(count, "MessagesDeleted")]
            connected, reason, message = reader.report
            assert (connected, reason) == (True, "MessagesDeleted")
            assert message.startswith(f"{count} messages of stream S were lost")
            if count < 7:
                await reader.until(7 - count)
            await js.publish("s.2", 3)
            await reader.until(3)
            await reader.spec.lag(context)
            assert lost(context) == count
        context = later(context)
        async with reading(spec_for(server), context) as reader:
            await reader.spec.lag(context)
            assert context.lost == []
            assert reader.report == (True, "", "")


async def test_messages_that_are_deleted_one_by_one_while_the_trigger_is_suspended_are_counted() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        await read_and_stop(server, js, context, 5)
        await js.publish("s.2", 7)
        await delete(js, 2, 6, 8, 12)  # 2 is read; 12 is the last one
        context = later(context)
        async with reading(spec_for(server), context) as reader:
            await reader.until(4)
            await until_lost(reader, 3)
            assert reader.report[2].startswith("3 messages of stream S were lost")


async def test_messages_that_were_given_back_when_the_trigger_stopped_and_are_purged_then_are_counted() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.publish("s.1", 10)
        context = StandInContext(room=4)
        async with reading(spec_for(server), context) as reader:
            await (await reader.next())[0].settle(DONE)
        await purge(js)
        lost_ = 0
        for _ in range(2):
            context = later(context)
            async with reading(spec_for(server), context) as reader:
                lost_ += lost(context)
                if lost(context):
                    assert reader.report[2].startswith("9 messages of stream S were lost"), "the number is exact"
        assert lost_ == 9


async def test_given_back_messages_that_vanish_after_some_were_handed_out_are_counted_as_at_least_so_many() -> None:
    """A consumer says how often it handed messages out, and not whether they were new ones."""
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.publish("s.1", 10)
        context = StandInContext(room=10)
        async with reading(spec_for(server), context) as reader:
            await reader.until(10, settle=False)
        context = later(context)
        context.room = 4
        async with reading(spec_for(server), context) as reader:
            await reader.until(4, settle=False)
            await purge(js)
            async with asyncio.timeout(15):
                while not lost(context):
                    await reader.spec.lag(context)
                    await asyncio.sleep(0.05)
            assert lost(context) <= 6, "those that were handed out again are not lost"
            assert reader.report[2].startswith(f"at least {lost(context)} messages of stream S were lost")


async def test_a_purge_of_read_messages_is_no_loss() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        await read_and_stop(server, js, context, 5)
        await purge(js)
        context = later(context)
        async with reading(spec_for(server), context) as reader:
            await reader.spec.lag(context)
            assert context.lost == []
            assert reader.report == (True, "", "")


@pytest.mark.parametrize("start", ["all", "3", "2020-01-01T00:00:00Z"])
async def test_messages_that_were_deleted_before_the_trigger_existed_are_no_loss(start: str) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.publish("s.1", 10)
        await delete(js, 1, 4, 5, 10)
        context = StandInContext()
        async with reading(spec_for(server, start=start), context) as reader:
            await reader.until(5 if start == "3" else 6)
            await js.publish("s.1", 1)
            await reader.until(1)
            await reader.spec.lag(context)
            assert context.lost == []


async def test_a_trigger_of_an_older_version_has_no_tally_and_counts_from_now_on() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        await read_and_stop(server, js, context, 5)
        kept = context.state.values["jetstream-place"]
        context.state.values["jetstream-place"] = kept[: kept.index(b',"tally"')] + b"}"
        await js.publish("s.1", 7)
        context = later(context, room=0)
        async with reading(spec_for(server), context) as reader:
            await purge(js)
            await until_lost(reader, 7)


# --- while it runs


@pytest.mark.parametrize(("request_", "count"), PURGES)
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_pending_messages_that_are_purged_while_the_trigger_runs_are_counted_once(
    request_: dict[str, Any], count: int, ordering: str
) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        async with reading(spec_for(server, ordering=ordering), context) as reader:
            await js.publish("s.1", 5)
            await reader.until(5)
            context.room = 0
            await until_idle(js, reader)
            handed_out = (await js.consumer("S", CONSUMER))["delivered"]["consumer_seq"]
            assert handed_out == 5
            await js.publish("s.2", 7)
            await purge(js, **request_)
            await until_lost(reader, count)
            assert reader.report[:2] == (True, "MessagesDeleted")
            assert reader.report[2].startswith(f"{count} messages of stream S were lost")


async def until_idle(js: JetStream, reader: Reader) -> None:
    """Reads until no pull is under way, so that the server hands nothing more out."""
    reader.read_ahead()
    async with asyncio.timeout(15):
        while (await js.consumer("S", CONSUMER))["num_waiting"]:
            await asyncio.sleep(0.05)


async def test_messages_that_came_twice_hide_no_loss() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 5)
            for delivery in await reader.until(5, settle=False):
                await delivery.settle(Outcome("returned"))
            await reader.until(5)
            context.room = 0
            await until_idle(js, reader)
            await js.publish("s.1", 4)
            await purge(js)
            await until_lost(reader, 4)


async def test_of_two_replicas_one_counts_a_loss() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        first = StandInContext()
        await read_and_stop(server, js, first, 5)
        await js.publish("s.1", 7)
        await purge(js)
        contexts = [later(first, room=0, replica=f"replica-{number}") for number in range(2)]
        one, other = contexts
        async with reading_both(server, contexts) as readers:
            assert lost(one, other) == 7
            await js.publish("s.1", 6)
            await purge(js)
            await asyncio.gather(*(reader.spec.lag(reader.context) for reader in readers))
            assert lost(one, other) == 13
            for reader in readers:
                await reader.spec.lag(reader.context)
            assert lost(one, other) == 13


@asynccontextmanager
async def reading_both(server: NATSServer, contexts: list[StandInContext]) -> AsyncIterator[list[Reader]]:
    async with AsyncExitStack() as stack:
        starts = [stack.enter_async_context(reading(spec_for(server), context)) for context in contexts]
        yield await asyncio.gather(*starts)


# --- the consumer is deleted, too


@pytest.mark.parametrize("subjects", [["s.>"], ["s.>", "t"]])
async def test_a_purge_and_a_deleted_consumer_while_nobody_reads_are_reported_without_a_number(
    subjects: list[str],
) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", subjects)
        context = StandInContext()
        await read_and_stop(server, js, context, 5)
        await js.publish("s.2", 7)
        await purge(js, keep=3)
        await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
        context = later(context)
        async with reading(spec_for(server), context) as reader:
            await reader.until(3)
            assert context.lost == []
            assert reader.report[:2] == (True, "MessagesDeleted")
            assert "their number is not known" in reader.report[2]


async def test_a_deleted_consumer_of_a_stream_whose_read_messages_are_purged_is_no_loss() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        await read_and_stop(server, js, context, 5)
        await purge(js)
        await js.publish("s.2", 7)
        await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
        context = later(context)
        async with reading(spec_for(server), context) as reader:
            await reader.until(7)
            assert reader.report[:2] == (True, "ConsumerRecreated")


async def test_a_purge_and_a_deleted_consumer_while_the_trigger_runs_are_reported_without_a_number() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 5)
            await reader.until(5)
            context.room = 0
            await until_idle(js, reader)
            await reader.spec.lag(context)
            await js.publish("s.2", 7)
            await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
            await purge(js)
            await reader.spec.lag(context)
            async with asyncio.timeout(15):
                while reader.report[1] != "MessagesDeleted":
                    await asyncio.sleep(0.02)
            assert "their number is not known, because the consumer was deleted" in reader.report[2]


# --- streams with other subjects


async def test_losses_of_a_stream_with_other_subjects_are_counted_as_at_least_so_many() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>", "t"])
        context = StandInContext(room=0)
        async with reading(spec_for(server), context) as reader:
            await js.publish("t", 20)
            await js.publish("s.1", 7)
            await reader.spec.lag(context)
            await js.publish("t", 20)
            await purge(js, filter="s.1")
            await until_lost(reader, 7)
            assert reader.report[:2] == (True, "MessagesDeleted")
            assert reader.report[2].startswith("at least 7 messages of stream S were lost")


async def test_deleted_messages_of_a_stream_with_other_subjects_are_reported_without_a_number() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>", "t"])
        context = StandInContext()
        await read_and_stop(server, js, context, 5)
        await js.publish("s.1", 7)
        await js.publish("t", 7)
        await purge(js, filter="s.>")
        context = later(context)
        async with reading(spec_for(server), context) as reader:
            assert context.lost == []
            assert reader.report[:2] == (True, "MessagesDeleted")
            assert "their number is not known" in reader.report[2]


async def test_deleted_read_messages_of_a_stream_with_other_subjects_are_not_reported() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>", "t"])
        context = StandInContext()
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 5)
            await reader.until(5)
        await purge(js, filter="s.>")
        context = later(context)
        async with reading(spec_for(server), context) as reader:
            await reader.spec.lag(context)
            assert context.lost == []
            assert reader.report == (True, "", "")


# --- everything at random


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("subjects", [["s.>"], ["s.>", "t"]])
async def test_every_lost_message_is_counted_and_none_that_is_delivered(seed: int, subjects: list[str]) -> None:
    """Messages that were read and not settled may be lost uncounted; those of a stream with other subjects, too."""
    dice = random.Random(seed)
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", subjects)
        context = StandInContext(room=4)
        contexts, published = [context], 0
        read: set[str | None] = set()
        settled: set[str | None] = set()
        for _ in range(4):
            async with reading(spec_for(server, ordering="key"), context) as reader:
                for _ in range(dice.randint(2, 8)):
                    published += await act(dice, js, reader, read, settled, subjects)
                await read_some(dice, reader, read, settled, 0.3)
            for _ in range(dice.randint(0, 3)):
                published += await change(dice, js, subjects)
            context = later(context, room=4)
            contexts.append(context)
        context.room = 64
        async with reading(spec_for(server, ordering="key"), context) as reader:
            await js.publish("s.end", 1, b"end")
            while True:
                found = await reader.next()
                for delivery in found:
                    await delivery.settle(DONE)
                    settled.add(delivery.position)
                if found[-1].event.data == b"end":
                    break
            missing = published + 1 - len(settled)
            least = missing - len(read - settled) if len(subjects) == 1 else 0
            async with asyncio.timeout(15):
                await reader.spec.lag(context)
                while lost(*contexts) < least:
                    await asyncio.sleep(0.05)
                    await reader.spec.lag(context)
            assert lost(*contexts) <= missing
            if len(subjects) > 1 and missing > len(read - settled):
                assert any(reason == "MessagesDeleted" for each in contexts for _, reason, _ in each.reports)


async def act(
    dice: random.Random,
    js: JetStream,
    reader: Reader,
    read: set[str | None],
    settled: set[str | None],
    subjects: list[str],
) -> int:
    if dice.random() < 0.4:
        await read_some(dice, reader, read, settled, dice.uniform(0.1, 0.6))
    if dice.random() < 0.5:
        await reader.spec.lag(reader.context)
    return await change(dice, js, subjects)


async def change(dice: random.Random, js: JetStream, subjects: list[str]) -> int:
    """Changes the stream. Returns how many messages for the trigger were published."""
    state = (await js.api("STREAM.INFO.S"))["state"]
    match dice.randrange(7):
        case 0:
            await purge(js)
        case 1:
            await purge(js, filter=dice.choice(["s.1", "s.2", "s.*"]))
        case 2:
            await purge(js, keep=dice.randint(1, 5))
        case 3 if state["messages"]:
            await js.api("STREAM.MSG.DELETE.S", {"seq": dice.randint(state["first_seq"], state["last_seq"])})
        case _:
            if len(subjects) > 1:
                await js.publish("t", dice.randint(0, 5))
            counts = [dice.randint(0, 6) for _ in range(2)]
            for number, count in enumerate(counts):
                await js.publish(f"s.{number + 1}", count)
            return sum(counts)
    return 0


async def read_some(
    dice: random.Random, reader: Reader, read: set[str | None], settled: set[str | None], seconds: float
) -> None:
    """Reads the messages that come soon, and settles some of them."""
    done, _ = await asyncio.wait({reader.read_ahead()}, timeout=seconds)
    for delivery in await reader.next() if done else []:
        read.add(delivery.position)
        if dice.random() < 0.7:
            await delivery.settle(DONE)
            settled.add(delivery.position)


# --- everything that an operator does while nobody runs, at random

LIMITS = ("max_msgs", "max_msgs_per_subject", "max_bytes", "max_age")


class Operator:
    """Publishes to a stream and removes from it, at random. It knows which messages there ever were."""

    def __init__(self, js: JetStream, dice: random.Random, others: bool) -> None:
        self.js = js
        self.dice = dice
        self.others = others  # the stream has messages of other subjects, too
        self.published = 0

    async def act(self) -> None:
        state = (await self.js.api("STREAM.INFO.S"))["state"]
        first, last = state["first_seq"], state["last_seq"]
        match self.dice.randrange(9):
            case 0:
                await purge(self.js, filter=self.dice.choice(["s.1", "s.2", "s.>"]))
            case 1:
                await purge(self.js, keep=self.dice.randint(1, 6))
            case 2:
                await purge(self.js, seq=self.dice.randint(first, last + 1))
            case 3:
                await purge(self.js, filter="s.1", keep=self.dice.randint(1, 3))
            case 4 | 5:
                for sequence in self.dice.sample(range(first, last + 1), min(3, last + 1 - first)):
                    await self.js.api("STREAM.MSG.DELETE.S", {"seq": sequence})  # it may be gone already
            case 6:
                await self.limit()
            case _:
                await self.publish()

    async def publish(self) -> None:
        for number in (1, 2):
            count = self.dice.randint(0, 6)
            await self.js.publish(f"s.{number}", count)
            self.published += count
            if self.others:
                await self.js.publish("t", self.dice.randint(0, 3))

    async def limit(self) -> None:
        """Sets a limit, lets it remove what it removes, and lifts it again."""
        config = (await self.js.api("STREAM.INFO.S"))["config"]
        name = self.dice.choice(LIMITS)
        most = {"max_msgs": 4, "max_msgs_per_subject": 2, "max_bytes": 150, "max_age": 100_000_000}[name]
        limited = {**config, name: most, **({"duplicate_window": most} if name == "max_age" else {})}
        assert "error" not in await self.js.api("STREAM.UPDATE.S", limited)
        if name == "max_age":
            async with asyncio.timeout(10):
                while (await self.js.api("STREAM.INFO.S"))["state"]["messages"]:
                    await asyncio.sleep(0.02)
        assert "error" not in await self.js.api("STREAM.UPDATE.S", config)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("holds", [False, True], ids=["settled", "held"])
@pytest.mark.parametrize("subjects", [["s.>"], ["s.>", "t"]], ids=["whole", "part"])
async def test_the_losses_of_the_time_without_a_reader_are_those_that_the_server_made(
    seed: int, holds: bool, subjects: list[str]
) -> None:
    """Of a whole stream each one, but for messages that were handed out before; of a part never more."""
    dice = random.Random(seed)
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", subjects)
        operator = Operator(js, dice, len(subjects) > 1)
        await operator.publish()
        state, contexts, held = StandInContext(), [], 0
        settled: set[str | None] = set()
        told = False
        for last in (False, False, False, False, True):
            context = later(state, room=64 if last else dice.choice([2, 5, 64]))
            contexts.append(context)
            async with reading(spec_for(server), context) as reader:
                if last:
                    operator.published += 1
                    await js.publish("s.end", 1)
                await settle_all(js, reader, settled, holds and not last)
                if last:
                    destroyed = operator.published - len(settled)
                    least = destroyed - held if len(subjects) == 1 else 0
                    async with asyncio.timeout(15):
                        while lost(*contexts) < least:
                            await reader.spec.lag(context)
                            await asyncio.sleep(0.05)
                told = told or reader.report[1] in ("MessagesDeleted", "RetentionOrDeletion")
                if count := lost(context):
                    assert f"{count} messages of stream S were lost" in reader.report[2]
            held += json.loads(context.state.values["jetstream-place"])["tally"]["given_back"]
            for _ in range(dice.randint(1, 6)):
                await operator.act()
        assert least <= lost(*contexts) <= destroyed
        assert told or lost(*contexts) == destroyed or held


async def settle_all(js: JetStream, reader: Reader, settled: set[str | None], holds: bool) -> None:
    """Settles what the stream has. `holds`: it ends with messages in its hands."""
    async with asyncio.timeout(30):
        while True:
            info = await js.consumer("S", CONSUMER)
            if not info["num_pending"] + info["num_ack_pending"]:
                break
            done, _ = await asyncio.wait({reader.read_ahead()}, timeout=0.5)
            for delivery in await reader.next() if done else []:
                await delivery.settle(DONE)
                settled.add(delivery.position)
            if holds:
                break
    await reader.spec.lag(reader.context)
