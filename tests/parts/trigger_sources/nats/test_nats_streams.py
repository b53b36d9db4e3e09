"""A NATS trigger takes the stream that has all of its subject, and is not ready where there is none."""

import asyncio
from contextlib import AsyncExitStack
from itertools import permutations

import pytest
from servers.nats import nats_server
from servers.nats_source import Reader, jetstream, later, reading, trigger

from trigger_sources.source import SourceError
from trigger_sources.testing import StandInContext


def own(url: str, name: str) -> StandInContext:
    """The context of a trigger on the fabric's own server."""
    return StandInContext(name=name, uid=f"default/{name}", defaults={"nats": [url]}, own_servers=("nats",))


async def refusal(url: str, **spec: object) -> SourceError:
    context = StandInContext()
    try:
        with pytest.raises(SourceError) as caught:
            await trigger(url, **spec).prepare(context)
        return caught.value
    finally:
        await context.close()


async def subjects_of(reader: Reader, count: int) -> set[str]:
    return {str(delivery.event.extensions["natssubject"]) for delivery in await reader.until(count)}


# --- the fabric's own server


async def test_on_the_own_server_triggers_of_narrow_and_wide_subjects_get_everything_in_any_order() -> None:
    for order in permutations(["orders.created", "orders.paid", "orders.>"]):
        async with nats_server() as server, AsyncExitStack() as stack:
            readers = {}
            for subject in order:
                spec = trigger(None, subject=subject)
                readers[subject] = await stack.enter_async_context(reading(spec, own(server.url, subject)))
            async with jetstream(server.url) as js:
                for kind in ("created", "paid", "shipped"):
                    await js.publish(f"orders.{kind}", 1)
                assert len(await js.subjects()) == 1, order
            assert await subjects_of(readers["orders.created"], 1) == {"orders.created"}
            assert await subjects_of(readers["orders.paid"], 1) == {"orders.paid"}
            assert await subjects_of(readers["orders.>"], 3) == {"orders.created", "orders.paid", "orders.shipped"}
            assert all(reader.report[0] for reader in readers.values())


async def test_on_the_own_server_triggers_that_start_at_once_share_one_stream() -> None:
    async with nats_server() as server:
        contexts = [own(server.url, name) for name in ("a", "b", "c", "d")]
        shared: dict[str, tuple[object, object]] = {}
        for context in contexts:
            context._shared = shared  # type: ignore[assignment]  # as the triggers of one process
        specs = [trigger(None, subject=subject) for subject in ("o.1", "o.2", "o.*", "o.2.>")]
        await specs[0].connection(contexts[0])
        await asyncio.gather(*(spec.prepare(context) for spec, context in zip(specs, contexts, strict=True)))
        async with jetstream(server.url) as js:
            (subjects,) = (await js.subjects()).values()
        assert sorted(subjects) == ["o.*", "o.2.>"]
        await contexts[0].close()


async def test_on_the_own_server_a_subject_and_all_below_it_do_not_share_a_name() -> None:
    async with nats_server() as server:
        async with reading(trigger(None, subject="a"), own(server.url, "one")) as one:
            async with (
                reading(trigger(None, subject="A.>"), own(server.url, "two")) as two,
                jetstream(server.url) as js,
            ):
                await js.publish("a", 1)
                await js.publish("A.b", 1)
                assert await subjects_of(one, 1) == {"a"}
                assert await subjects_of(two, 1) == {"A.b"}


@pytest.mark.parametrize("subject", [">", "*.created"])
async def test_a_subject_that_no_stream_may_have_is_not_ready_and_says_so(subject: str) -> None:
    async with nats_server() as server:
        context = own(server.url, "wide")
        with pytest.raises(SourceError, match="narrow the subject") as caught:
            await trigger(None, subject=subject).prepare(context)
        assert caught.value.reason == "StreamMissing"
        await context.close()
        async with jetstream(server.url) as js:
            await js.create("ORDERS-CREATED", ["orders.created"])
            async with reading(trigger(None, subject=subject), own(server.url, "wide")) as reader:
                await js.publish("orders.created", 1)
                assert await subjects_of(reader, 1) == {"orders.created"}
                connected, reason, message = reader.report
                assert (connected, reason) == (False, "PartlyInStream")
                assert "ORDERS-CREATED (orders.created)" in message


async def test_default_servers_that_are_not_the_own_ones_get_no_stream() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        context = StandInContext(defaults={"nats": [server.url]})
        with pytest.raises(SourceError, match="createStream") as caught:
            await trigger(None, subject="mistake").prepare(context)
        assert caught.value.reason == "StreamMissing"
        assert await js.subjects() == {}
        await trigger(None, subject="wanted", createStream=True).prepare(context)
        assert await js.subjects() == {"WANTED": ["wanted"]}
        await context.close()


# --- other servers


async def test_a_subject_in_several_streams_is_refused_and_each_of_them_can_be_named() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("MEU", ["m.eu.>"])
        await js.create("MUS", ["m.us.>"])
        refused = await refusal(server.url, subject="m.>", createStream=True)
        assert refused.reason == "SeveralStreams"
        assert "MEU (m.eu.>), MUS (m.us.>)" in str(refused)
        assert "spec.stream" in str(refused)
        await js.publish("m.us.1", 1)
        async with reading(trigger(server.url, subject="m.>", stream="MUS")) as reader:
            assert await subjects_of(reader, 1) == {"m.us.1"}
            assert reader.report[:2] == (True, "PartlyInStream")


async def test_a_trigger_that_read_one_of_several_streams_goes_on_and_says_that_it_is_not_all() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("MUS", ["m.us.>"])
        context = StandInContext()
        async with reading(trigger(server.url, subject="m.>"), context) as reader:
            await js.publish("m.us.1", 1)
            await reader.until(1)
            assert reader.report[:2] == (False, "PartlyInStream")
            await js.create("MEU", ["m.eu.>"])
            await reader.spec.lag(reader.context)
            assert reader.report[:2] == (False, "SeveralStreams")
            await js.publish("m.us.2", 1)
            await reader.until(1)
        async with reading(trigger(server.url, subject="m.>"), later(context)) as reader:
            await js.publish("m.us.3", 1)
            assert await subjects_of(reader, 1) == {"m.us.3"}
            assert reader.report[:2] == (False, "SeveralStreams")
            assert "only MUS is read" in reader.report[2]


async def test_a_stream_that_covers_a_subject_by_several_of_its_own_is_whole() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["m.*", "m.*.>"])
        await js.create("KV_s", ["$KV.s.>"])
        async with reading(trigger(server.url, subject="m.>")) as reader:
            await js.publish("m.1", 1)
            await js.publish("m.1.2.3", 1)
            await reader.until(2)
            assert reader.report == (True, "", "")


async def test_a_named_stream_without_the_subject_is_refused() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("RC", ["rc.>"])
        refused = await refusal(server.url, subject="zzz.>", stream="RC", createStream=True)
        assert refused.reason == "SubjectNotInStream"
        assert "RC (rc.>)" in str(refused)
        assert await js.subjects() == {"RC": ["rc.>"]}


async def test_a_named_mirror_is_read_though_it_has_no_subjects_of_its_own() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("ORIGIN", ["m.>"])
        await js.api("STREAM.CREATE.COPY", {"name": "COPY", "mirror": {"name": "ORIGIN"}, "storage": "file"})
        await js.publish("m.1", 1)
        async with reading(trigger(server.url, subject="m.>", stream="COPY")) as reader:
            await reader.until(1)
            assert reader.report == (True, "", "")


async def test_a_stream_that_renames_subjects_has_the_new_ones_only() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["in.*"], subject_transform={"src": "in.*", "dest": "out.{{wildcard(1)}}"})
        await js.publish("in.1", 1)
        for spec in ({"subject": "in.*"}, {"subject": "in.*", "stream": "S"}):
            refused = await refusal(server.url, **spec)
            assert refused.reason in ("StreamMissing", "SubjectNotInStream")
        async with reading(trigger(server.url, subject="out.*", stream="S")) as reader:
            (found,) = await reader.until(1)
            assert found.event.subject == "out.1"
            assert reader.report == (True, "", "")


async def test_more_streams_than_one_answer_holds_are_all_looked_at() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        for number in range(1_030):
            await js.create(f"S{number:04}", [f"m.{number}"], storage="memory")
        refused = await refusal(server.url, subject="m.*")
        assert refused.reason == "SeveralStreams"
        assert "in 1030 streams" in str(refused)


# --- streams change


async def test_a_stream_that_loses_a_part_of_the_subject_is_noticed_and_still_read() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["m.eu.*", "m.us.*"])
        async with reading(trigger(server.url, subject="m.us.*")) as reader:
            await js.publish("m.us.1", 2)
            await reader.until(2)
            assert reader.report[0]
            await js.api("STREAM.UPDATE.S", {"name": "S", "subjects": ["m.eu.*", "m.us.1"], "storage": "file"})
            await reader.spec.lag(reader.context)
            assert reader.report[:2] == (False, "PartlyInStream")
            await js.api("STREAM.UPDATE.S", {"name": "S", "subjects": ["m.eu.*"], "storage": "file"})
            await reader.spec.lag(reader.context)
            assert reader.report[:2] == (False, "StreamMissing")
            await js.api("STREAM.UPDATE.S", {"name": "S", "subjects": ["m.>"], "storage": "file"})
            await reader.spec.lag(reader.context)
            assert reader.report == (True, "", "")


async def test_a_subject_that_moves_to_another_stream_is_read_there_after_the_rest_of_the_first() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("A", ["m.>"])
        context = StandInContext(room=1)  # for each list that is yielded
        async with reading(trigger(server.url, subject="m.>"), context) as reader:
            await js.publish("m.1", 6)
            for _ in range(3):
                await reader.until(1)
            await js.api("STREAM.UPDATE.A", {"name": "A", "subjects": ["other"], "storage": "file"})
            await js.create("B", ["m.>"])
            await js.publish("m.2", 2)
        async with reading(trigger(server.url, subject="m.>"), later(context)) as reader:
            assert await subjects_of(reader, 3) == {"m.1"}
            assert reader.report[:2] == (True, "StreamMoved")
            with pytest.raises(SourceError, match="read to its end"):
                async with asyncio.timeout(10):
                    while True:
                        await reader.spec.lag(reader.context)
            assert (await reader.error()).reason == "StreamMoved"
        async with reading(trigger(server.url, subject="m.>"), later(context)) as reader:
            assert await subjects_of(reader, 2) == {"m.2"}
            assert reader.report == (True, "", "")
