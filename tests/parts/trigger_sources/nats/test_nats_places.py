"""A trigger's place is a stream with its creation, and a sequence: nothing is skipped or read again by mistake."""

import asyncio
from typing import Any

import orjson
import pytest
from servers.nats import NATSServer, nats_server
from servers.nats_source import DONE, JetStream, jetstream, later, reading, trigger
from servers.relay import relay

from trigger_sources.nats.place import Place, kept_place, place_from
from trigger_sources.source import SourceError
from trigger_sources.testing import StandInContext
from trigger_sources.testing.stand_in import MemoryState

CONSUMER = "kubeirq-default-trigger-function"


def spec_for(server: NATSServer, **spec: Any) -> Any:
    return trigger(server.url, subject="s.>", **spec)


def numbers(deliveries: list[Any]) -> list[int]:
    return [int(delivery.event.data) for delivery in deliveries]


async def recreate(js: JetStream, messages: int) -> None:
    await js.api("STREAM.DELETE.S")
    await js.create("S", ["s.>"])
    await js.publish("s.1", messages)


async def until_acknowledged(js: JetStream, floor: int) -> None:
    async with asyncio.timeout(10):
        while (await js.consumer("S", CONSUMER))["ack_floor"]["stream_seq"] < floor:
            await asyncio.sleep(0.02)


async def recreated(js: JetStream) -> None:
    """Returns once the consumer, which was deleted, is there again."""
    async with asyncio.timeout(10):
        while "error" in await js.consumer("S", CONSUMER):
            await asyncio.sleep(0.02)


# --- another stream of the same name


@pytest.mark.parametrize("start", ["all", "new", "7", "2020-01-01T00:00:00Z"])
async def test_a_stream_that_was_recreated_while_nobody_read_is_read_from_its_beginning(start: str) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        async with reading(spec_for(server, start=start), context) as reader:
            await js.publish("s.1", 40)
            before = await reader.until(34 if start == "7" else 40)
        await recreate(js, 30)
        async with reading(spec_for(server, start=start), later(context)) as reader:
            after = await reader.until(30)
            assert numbers(after) == list(range(30))
            assert reader.report[:2] == (True, "StreamRecreated")
            assert "up to sequence 40" in reader.report[2]
            assert not {found.position for found in before} & {found.position for found in after}
            assert not {found.event.id for found in before} & {found.event.id for found in after}
        ids = {found.event.id for found in after}
        async with reading(spec_for(server, start=start), later(context)) as reader:
            await js.publish("s.1", 1)
            (more,) = await reader.until(1)
            assert more.event.id.rpartition("/")[0] == after[0].event.id.rpartition("/")[0]
            assert more.event.id not in ids
            assert reader.report == (True, "", "")


async def test_a_stream_that_is_recreated_while_the_connection_is_cut_is_read_from_its_beginning() -> None:
    async with nats_server() as server, relay(server.port) as way, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        spec = trigger(f"nats://127.0.0.1:{way.port}", subject="s.>")
        context = StandInContext()
        async with reading(spec, context) as reader:
            await js.publish("s.1", 40)
            held = (await reader.until(40, settle=False))[5]
            way.swallows = True
            await recreate(js, 25)
            await way.cut()
            way.swallows = False
            assert (await reader.error()).reason == "StreamRecreated"
            with pytest.raises(ConnectionError):  # it says nothing about a message of the new stream
                await held.settle(DONE)
            context.reports.clear()
            reader.generator = spec.deliveries(context)
            assert numbers(await reader.until(25)) == list(range(25))
            assert reader.report[:2] == (True, "StreamRecreated")


async def test_a_stream_and_consumer_that_somebody_recreated_are_noticed_by_the_first_message() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 10)
            await reader.until(10)
            config = (await js.consumer("S", CONSUMER))["config"]
            await js.api("STREAM.DELETE.S")
            await js.create("S", ["s.>"])
            await js.api(f"CONSUMER.CREATE.S.{CONSUMER}", {"stream_name": "S", "config": config})
            await js.publish("s.1", 5)
            assert (await reader.error()).reason == "StreamRecreated"
            reader.generator = reader.spec.deliveries(context)
            assert numbers(await reader.until(5)) == list(range(5))


@pytest.mark.parametrize("seen", [True, False])
async def test_messages_that_nobody_read_before_their_stream_was_deleted_are_counted_as_lost(seen: bool) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.publish("s.1", 10)
        context = StandInContext(room=4)
        async with reading(spec_for(server), context) as reader:
            held = len(await reader.next())
            context.room = 0
            if seen:
                await reader.spec.lag(context)
            await recreate(js, 3)
            with pytest.raises(SourceError):
                await reader.spec.lag(context)
            error = await reader.error()
            assert error.reason == "StreamRecreated"
            assert f"{10 - held} messages are lost" in str(error)
            context.room = 64
            reader.generator = reader.spec.deliveries(context)
            assert numbers(await reader.until(3)) == [0, 1, 2]
            assert context.lost == [(10 - held, "StreamRecreated")]
            assert f"{10 - held} unread messages" in reader.report[2]


async def test_a_loss_behind_the_first_message_of_a_stream_with_limits_is_not_said_to_be_a_deletion() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"], max_msgs_per_subject=5)
        context = StandInContext(room=1)
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.first", 1)
            await reader.next()
            context.room = 0
            await js.publish("s.1", 95)
            context.room = 64
            await reader.next()
            async with asyncio.timeout(30):
                while not context.lost:  # the consumer has to pass the gap
                    await reader.spec.lag(context)
                    await asyncio.sleep(0.05)
            assert {reason for _, reason in context.lost} == {"RetentionOrDeletion"}
            assert reader.report[1] == "RetentionOrDeletion"


@pytest.mark.parametrize("how", ["max_msgs", "max_msgs_per_subject"])
async def test_messages_that_are_removed_before_they_are_read_are_counted_as_lost_once(how: str) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"], **{how: 5})
        context = StandInContext(room=4)
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 5)
            held = await reader.next()
            context.room = 0
            await js.publish("s.1", 95)
            for _ in range(2):
                await reader.spec.lag(context)
            ((lost, reason),) = context.lost
            assert reason == "RetentionOrDeletion"
            handed_out = (await js.consumer("S", CONSUMER))["delivered"]["stream_seq"]
            assert lost == 95 - handed_out
            assert handed_out >= len(held)
        for given_back in (handed_out, 0):  # nobody settled them, and they are gone, too
            context = later(context)
            async with reading(spec_for(server), context) as reader:
                await reader.spec.lag(context)
                assert sum(count for count, _ in context.lost) == given_back


async def test_removed_messages_of_a_stream_with_other_subjects_are_not_guessed() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>", "t"], max_msgs=5)
        context = StandInContext(room=0)
        async with reading(spec_for(server), context) as reader:
            await js.publish("t", 50)
            await reader.spec.lag(context)
            assert context.lost == []


async def test_messages_of_a_stream_that_is_deleted_while_no_fabric_runs_are_counted_as_lost_once() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.publish("s.1", 10)
        context = StandInContext(room=4)
        async with reading(spec_for(server), context) as reader:
            await (await reader.next())[0].settle(DONE)
            await until_acknowledged(js, 1)
        await recreate(js, 3)
        lost = []
        for _ in range(2):
            context = later(context)
            async with reading(spec_for(server), context):
                lost += context.lost
        assert lost == [(9, "StreamRecreated")]


# --- a consumer that is deleted


@pytest.mark.parametrize("start", ["all", "new"])
async def test_a_consumer_that_is_deleted_after_a_restart_continues_after_the_last_acknowledged_message(
    start: str,
) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        async with reading(spec_for(server, start=start), context) as reader:
            await js.publish("s.1", 50)
            await reader.until(50)
            await until_acknowledged(js, 50)
        async with reading(spec_for(server, start=start), later(context)) as reader:
            waiting = asyncio.create_task(reader.until(1))
            await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
            await recreated(js)
            await js.publish("s.1", 1, b"50")
            assert numbers(await waiting) == [50]


async def test_a_consumer_that_is_deleted_while_no_fabric_runs_continues_after_the_last_acknowledged_message() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 50)
            for delivery in await reader.until(50, settle=False):
                if int(delivery.event.data or b"") not in (30, 45):
                    await delivery.settle(DONE)
            await until_acknowledged(js, 30)
        await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
        async with reading(spec_for(server), later(context)) as reader:
            assert numbers(await reader.until(20)) == list(range(30, 50))
            assert reader.report[:2] == (True, "ConsumerRecreated")


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("retention", ["workqueue", "interest"])
async def test_a_consumer_of_a_stream_that_keeps_no_settled_messages_is_created_again(
    retention: str, runs: bool
) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"], retention=retention)
        context = StandInContext()
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 3)
            await reader.until(3)
            await until_acknowledged(js, 3)
            if runs:
                more = asyncio.create_task(reader.until(2))
                await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
                await recreated(js)
                await js.publish("s.1", 2)
                assert [found.event.id for found in await more] == ["S/4", "S/5"]
        if not runs:
            await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
            async with reading(spec_for(server), later(context)) as reader:
                assert reader.report[:2] == (True, "ConsumerRecreated")
                await js.publish("s.1", 2)
                assert [found.event.id for found in await reader.until(2)] == ["S/4", "S/5"]


async def test_a_work_queue_is_read_whole_and_another_start_is_refused() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"], retention="workqueue")
        for start in ("new", "7", "2020-01-01T00:00:00Z"):
            generator = spec_for(server, start=start).deliveries(context := StandInContext())
            with pytest.raises(SourceError, match="work queue") as caught:
                await anext(generator)
            assert caught.value.reason == "StartRefused"
            await context.close()


async def test_new_means_the_first_start_of_the_trigger_though_its_consumer_is_deleted_before_any_message() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.publish("s.1", 30)
        context = StandInContext()
        async with reading(spec_for(server, start="new"), context) as reader:
            assert reader.report == (True, "", "")
            assert "jetstream-place" in context.state.values, "Ready before it is decided where it begins"
        await js.publish("s.1", 2, b"99")
        await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
        async with reading(spec_for(server, start="new"), later(context)) as reader:
            assert numbers(await reader.until(2)) == [99, 99]


async def test_messages_that_are_held_or_wait_when_the_consumer_is_deleted_are_not_skipped() -> None:
    for ordering in ("none", "key"):
        async with nats_server() as server, jetstream(server.url) as js:
            await js.create("S", ["s.>"])
            context = StandInContext(room=1)  # for each list that is yielded: a busy machine yields several
            async with reading(spec_for(server, ordering=ordering), context) as reader:
                await js.publish("s.1", 20)
                taken = [(await reader.until(1, settle=False))[0] for _ in range(4)]
                for delivery in (taken[0], taken[2]):
                    await delivery.settle(DONE)
                await until_acknowledged(js, 1)
                await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
                context.room = 64
                seen: set[int] = set()
                async with asyncio.timeout(20):
                    while seen < {1, *range(3, 20)}:
                        for delivery in await reader.next():
                            seen.add(int(delivery.event.data))
                            await delivery.settle(DONE)
                await until_acknowledged(js, 20)


async def test_a_stream_that_is_shorter_than_the_place_is_read_from_its_end() -> None:
    """As one that was restored from a backup, with its creation."""
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 5)
            await reader.until(5)
            await until_acknowledged(js, 5)
        kept = context.state.values["jetstream-place"]
        context.state.values["jetstream-place"] = kept.replace(b'"floor":5', b'"floor":50')
        await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
        async with reading(spec_for(server), later(context)) as reader:
            await js.publish("s.1", 1, b"5")
            assert numbers(await reader.until(1)) == [5]


async def test_the_place_of_another_subject_does_not_count() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.create("T", ["t.>"])
        context = StandInContext()
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 5)
            await reader.until(5)
        await js.publish("t.1", 3)
        async with reading(trigger(server.url, subject="t.>"), later(context)) as reader:
            assert numbers(await reader.until(3)) == [0, 1, 2]
            assert reader.report == (True, "", "")


DAMAGES = [b"", b"{", b'{"other": 1}', b"\x00\xff", b"null", b'{"stream": "S", "floor": "x"}']


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("start", ["new", "all", "30", "2100-01-01T00:00:00Z"])
async def test_a_damaged_place_and_a_missing_consumer_skip_nothing_and_say_how_much_is_read_again(
    start: str, damage: bytes
) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>", "t"])
        await js.publish("s.1", 5)
        await js.publish("t", 3)
        context = StandInContext()
        async with reading(spec_for(server, start=start), context):
            pass
        await js.publish("s.1", 2)
        context.state.values["jetstream-place"] = damage
        await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
        context = later(context)
        async with reading(spec_for(server, start=start), context) as reader:
            assert reader.report[:2] == (True, "PlaceDamaged")
            assert "all 7 messages that stream S has of 's.>' are read, up to sequence 10" in reader.report[2]
            assert numbers(await reader.until(7)) == [0, 1, 2, 3, 4, 0, 1]
        async with reading(spec_for(server, start=start), later(context)) as reader:
            assert reader.report == (True, "", ""), "the place is whole again"


@pytest.mark.parametrize("name", [CONSUMER, "kubeirq-default-trigger-former"])
async def test_a_trigger_with_a_damaged_place_goes_on_at_its_consumer_whatever_its_name_is(name: str) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        former = StandInContext(function=name.rpartition("-")[2])
        async with reading(spec_for(server), former) as reader:
            await js.publish("s.1", 5)
            await reader.until(5)
        context = later(former, function="function")
        async with reading(spec_for(server), context):
            pass  # takes over the former function's consumer
        context.state.values["jetstream-place"] = b"{"
        await js.publish("s.1", 1)
        context = later(context)
        async with reading(spec_for(server), context) as reader:
            assert reader.report[:2] == (True, "PlaceDamaged")
            assert f"it goes on at its consumer {name}, after sequence 5" in reader.report[2]
            assert numbers(await reader.until(1)) == [0]


async def test_a_damaged_place_that_a_running_trigger_meets_is_written_anew() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 5)
            context.state.values["jetstream-place"] = b"{"
            await reader.until(5)
        place = await kept_place(context.state)
        assert isinstance(place, Place)
        assert place.floor == 5


async def test_a_place_of_a_newer_version_stops_the_trigger_and_stays_as_it_is() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        newer = context.state.values["jetstream-place"] = b'{"version": 2}'
        with pytest.raises(SourceError) as error:
            await spec_for(server).prepare(context)
        assert error.value.reason == "StateNewer"
        assert context.state.values["jetstream-place"] == newer
        await context.close()


# --- the durable place


class CountingState(MemoryState):
    """A state that keeps all places that were written."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[Place] = []

    async def put(self, key: str, value: bytes) -> None:
        self.places.append(place_from(orjson.loads(value)))
        await super().put(key, value)


async def test_a_trigger_writes_its_place_once_at_its_beginning_and_not_again_at_rest() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        state = CountingState()
        context = StandInContext(state=state)
        for _ in range(2):
            async with reading(spec_for(server), context) as reader:
                (place,) = state.places
                assert place.tally.consumer == (await js.consumer("S", CONSUMER))["created"]
                await reader.spec.lag(context)
            assert len(state.places) == 1
            context = later(context)


async def test_a_trigger_that_read_and_rests_writes_nothing_when_it_starts_again() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>", "t"])
        state = CountingState()
        context = StandInContext(state=state)
        await js.publish("t", 2)
        async with reading(spec_for(server), context) as reader:
            await js.publish("s.1", 5)
            await reader.until(5)
            await until_acknowledged(js, 7)
        context = later(context)
        async with reading(spec_for(server), context) as reader:  # the place has the messages since the last look
            await reader.spec.lag(context)
        written = len(state.places)
        context = later(context)
        async with reading(spec_for(server), context) as reader:
            await reader.spec.lag(context)
        assert len(state.places) == written


async def test_a_place_says_how_much_is_unread_before_the_trigger_is_ready() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.publish("s.1", 5)
        state = CountingState()
        async with reading(spec_for(server), StandInContext(state=state, room=0)):
            assert [place.unread for place in state.places] == [5]


async def test_the_place_of_a_consumer_without_one_is_durable_before_the_trigger_is_ready() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        context = StandInContext()
        async with reading(spec_for(server, start="new"), context):
            pass
        context.state.values.clear()  # the process was killed between the consumer's creation and the write
        context = later(context)
        async with reading(spec_for(server, start="new"), context):
            assert "jetstream-place" in context.state.values


async def test_the_place_of_a_consumer_that_is_created_again_is_durable_at_once() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        state = CountingState()
        async with reading(spec_for(server), StandInContext(state=state)) as reader:
            await js.api(f"CONSUMER.DELETE.S.{CONSUMER}")
            reader.read_ahead()
            async with asyncio.timeout(15):
                while reader.report[1] != "ConsumerRecreated":
                    await asyncio.sleep(0.02)
            assert state.places[-1].tally.consumer == (await js.consumer("S", CONSUMER))["created"]
