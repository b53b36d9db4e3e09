"""A consumer belongs to one trigger: others are used as they are or refused, and never changed in silence."""

import asyncio
from typing import Any

import pytest
from servers.nats import nats_server
from servers.nats_source import DONE, JetStream, jetstream, later, reading, trigger

from trigger_sources.dead_letters import DeadLetter
from trigger_sources.nats import NATSTrigger
from trigger_sources.source import SourceError
from trigger_sources.testing import StandInContext

OWN_NAME = "kubeirq-default-trigger-function"


def context(name: str, **more: Any) -> StandInContext:
    return StandInContext(**{"name": name, "uid": f"uid-of-{name}", **more})


async def refusal(spec: NATSTrigger, given: StandInContext) -> SourceError:
    """The error with which the trigger does not start."""
    await spec.prepare(given)
    generator = spec.deliveries(given)
    try:
        with pytest.raises(SourceError) as caught:
            await asyncio.wait_for(anext(aiter(generator)), 10)
        return caught.value
    finally:
        await given.close()


async def consumer(js: JetStream, stream: str, name: str, **config: Any) -> Any:
    """As another program, or an earlier version, creates it."""
    given = {"name": name, "durable_name": name, "ack_policy": "explicit", "max_deliver": -1, **config}
    answer = await js.api(f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": given})
    assert "error" not in answer, answer
    return answer["config"]


def without_metadata(config: Any) -> Any:
    return {name: value for name, value in config.items() if name != "metadata"}


# --- triggers


async def test_a_consumer_of_another_trigger_is_not_taken_over() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d.>"])
        async with reading(trigger(server.url, subject="d.a.>", durable="shared"), context("a")) as first:
            refused = await refusal(trigger(server.url, subject="d.b.>", durable="shared"), context("b"))
            assert refused.reason == "Taken"
            assert "default/a" in str(refused)
            refused = await refusal(trigger(server.url, subject="d.a.>", durable="shared"), context("b"))
            assert "uses it now" in str(refused)
            await js.publish("d.a.1", 3)
            assert len(await first.until(3)) == 3


async def test_two_functions_of_one_trigger_do_not_share_a_consumer() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d"])
        spec = trigger(server.url, subject="d", durable="shared")
        async with reading(spec, context("a", function="one")):
            assert (await refusal(spec, context("a", function="two"))).reason == "Taken"


async def test_triggers_whose_names_make_the_same_consumer_do_not_share_it() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d.>"])
        one, two = context("c", namespace="a-b"), context("b-c", namespace="a")
        async with reading(trigger(server.url, subject="d.1"), one):
            refused = await refusal(trigger(server.url, subject="d.2"), two)
            assert refused.reason == "Taken"
            assert "a-b/c" in str(refused)


async def test_a_trigger_that_was_deleted_and_created_again_continues_at_its_place() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d.>"])
        async with reading(trigger(server.url, subject="d.>"), context("a", uid="first")) as reader:
            await js.publish("d.1", 3)
            await reader.until(3)
        async with reading(trigger(server.url, subject="d.1"), context("a", uid="second")) as reader:
            await js.publish("d.1", 1)
            assert [found.event.data for found in await reader.until(1)] == [b"0"]
            assert reader.report == (True, "", "")


async def test_a_durable_goes_on_under_another_name_of_the_trigger() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d"])
        spec = trigger(server.url, subject="d", durable="kept")
        async with reading(spec, context("old")) as reader:
            await js.publish("d", 3)
            await reader.until(3)
        async with reading(spec, context("new")) as reader:
            await js.publish("d", 1, b"more")
            assert [found.event.data for found in await reader.until(1)] == [b"more"]


async def test_a_changed_spec_changes_the_triggers_own_consumer_and_keeps_what_an_operator_set() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d.>"])
        async with reading(trigger(server.url, subject="d.>"), context("trigger")):
            before = (await js.consumer("D", OWN_NAME))["config"]
        await js.api(
            f"CONSUMER.CREATE.D.{OWN_NAME}",
            {"stream_name": "D", "config": {**before, "description": "an operator's", "max_batch": 7}},
        )
        async with reading(trigger(server.url, subject="d.1", ackWaitSeconds=12), context("trigger")) as reader:
            after = (await js.consumer("D", OWN_NAME))["config"]
            assert (after["filter_subject"], after["ack_wait"]) == ("d.1", 12_000_000_000)
            assert (after["description"], after["max_batch"]) == ("an operator's", 7)
            await js.publish("d.1", 20)
            await reader.until(20)


@pytest.mark.parametrize(
    ("former", "subject", "start", "left_out"),
    [
        ("d.eu", "d.*", "all", 4),
        ("d.eu", "d.*", "new", 0),
        ("d.*", "d.eu", "all", 0),
        ("d.eu", "d.us", "all", 4),
        ("d.*.x", "d.*", "all", 7),
    ],
)
async def test_an_edited_subject_tells_how_many_older_messages_it_leaves_out(
    former: str, subject: str, start: str, left_out: int
) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d.>"])
        async with reading(trigger(server.url, subject=former, start=start), context("trigger")) as reader:
            for name, count in (("d.us", 4), ("d.eu", 3), ("d.one.x", 1)):
                await js.publish(name, count)
            await reader.until({"d.eu": 3, "d.*": 7, "d.*.x": 1}[former])
            async with asyncio.timeout(10):
                while (await js.consumer("D", OWN_NAME))["num_ack_pending"]:
                    await asyncio.sleep(0.02)
        await js.publish("d.us", 2)
        async with reading(trigger(server.url, subject=subject, start=start), context("trigger")) as reader:
            if not left_out:
                assert reader.report == (True, "", "")
                return
            assert reader.report[:2] == (True, "OlderNotRead")
            assert f"spec.subject was {former}: about {left_out} older messages of stream D" in reader.report[2]
            await reader.until(2)


async def test_a_consumer_that_somebody_points_elsewhere_is_noticed() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d.>"])
        given = context("trigger")
        async with reading(trigger(server.url, subject="d.1"), given) as reader:
            config = (await js.consumer("D", OWN_NAME))["config"]
            changed = {**config, "filter_subject": "d.2"}
            await js.api(f"CONSUMER.CREATE.D.{OWN_NAME}", {"stream_name": "D", "config": changed})
            await reader.spec.lag(given)
            error = await reader.error()
            assert error.reason == "Taken"
            assert "'d.2'" in str(error)


@pytest.mark.parametrize(
    "changed",
    [
        {"max_deliver": 2},
        {"headers_only": True},
        {"ack_wait": 1_000_000_000},
        {"priority_groups": ["a"], "priority_policy": "overflow"},
        {"backoff": [1_000_000_000], "max_deliver": 3},
    ],
)
async def test_a_setting_by_which_the_trigger_misses_messages_is_set_back(changed: dict[str, Any]) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d"])
        async with reading(trigger(server.url, subject="d"), context("trigger")) as reader:
            before = (await js.consumer("D", OWN_NAME))["config"]
            request = {"stream_name": "D", "config": {**before, **changed}}
            assert "error" not in await js.api(f"CONSUMER.CREATE.D.{OWN_NAME}", request)
            await reader.spec.lag(reader.context)
            assert (await js.consumer("D", OWN_NAME))["config"] == before
            await js.publish("d", 1, b"whole")
            assert [found.event.data for found in await reader.until(1)] == [b"whole"]


async def test_a_paused_consumer_is_not_ready_until_it_is_resumed() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d"])
        given = context("trigger")
        pause = f"CONSUMER.PAUSE.D.{OWN_NAME}"
        async with reading(trigger(server.url, subject="d"), given) as reader:
            await js.api(pause, {"pause_until": "2099-01-01T00:00:00Z"})
            await js.publish("d", 1)
            await reader.spec.lag(given)
            assert reader.report[:2] == (False, "ConsumerPaused")
            assert "2099-01-01T00:00:00Z" in reader.report[2]
        async with reading(trigger(server.url, subject="d"), later(given)) as reader:
            assert reader.report[:2] == (False, "ConsumerPaused"), "a restart does not end an operator's pause"
            await js.api(pause, {})
            await reader.spec.lag(reader.context)
            assert reader.report == (True, "", "")
            await reader.until(1)


# --- other programs


async def test_a_consumer_of_another_program_with_another_filter_is_refused_and_not_changed() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d.>"])
        before = await consumer(js, "D", "theirs", filter_subject="d.theirs")
        refused = await refusal(trigger(server.url, subject="d.>", durable="theirs"), context("a"))
        assert refused.reason == "Taken"
        assert "'d.theirs'" in str(refused)
        assert (await js.consumer("D", "theirs"))["config"] == before


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"max_deliver": 3}, "max_deliver"),
        ({"ack_policy": "none"}, "ack_policy"),
        ({"ack_wait": 1_000_000_000}, "ack_wait"),
        ({"deliver_subject": "push.it"}, "pushes"),
        ({"headers_only": True}, "headers_only"),
        ({"priority_groups": ["a"], "priority_policy": "overflow"}, "priority_groups"),
        ({"filter_subject": "", "filter_subjects": ["d.1", "d.2"]}, "'d.1', 'd.2'"),
    ],
)
async def test_a_consumer_that_breaks_a_promise_of_the_trigger_is_refused(config: dict[str, Any], problem: str) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d.>"])
        before = await consumer(js, "D", "theirs", **{"filter_subject": "d.>", **config})
        refused = await refusal(trigger(server.url, subject="d.>", durable="theirs"), context("a"))
        assert refused.reason == "Taken"
        assert problem in str(refused)
        assert (await js.consumer("D", "theirs"))["config"] == before


async def test_a_consumer_as_version_0_1_0_made_it_but_without_data_is_not_changed() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d.>"])
        config = {"filter_subject": "d.>", "ack_wait": 30_000_000_000, "max_ack_pending": 1_000, "headers_only": True}
        before = await consumer(js, "D", "theirs", **config)
        refused = await refusal(trigger(server.url, subject="d.>", durable="theirs"), context("a"))
        assert "headers_only" in str(refused)
        assert (await js.consumer("D", "theirs"))["config"] == before


async def test_a_consumer_that_an_operator_made_for_the_trigger_is_used_as_it_is() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d"])
        await js.publish("d", 10)
        before = await consumer(
            js, "D", "made", filter_subject="d", ack_wait=60_000_000_000, max_ack_pending=3, max_batch=2,
            max_expires=1_000_000_000, max_bytes=300, deliver_policy="by_start_sequence", opt_start_seq=4,
        )  # fmt: skip
        async with reading(trigger(server.url, subject="d", durable="made"), context("a")) as reader:
            seen: list[bytes | None] = []
            async with asyncio.timeout(20):
                while len(seen) < 7:
                    for delivery in await reader.next():
                        seen.append(delivery.event.data)
                        await delivery.settle(DONE)
            assert seen == [b"%d" % number for number in range(3, 10)]
        assert (await js.consumer("D", "made"))["config"] == before
        refused = await refusal(trigger(server.url, subject="d", durable="made", ordering="key"), context("a"))
        assert "ordering" in str(refused)


# --- limits of the server


@pytest.mark.parametrize("limits", [{"max_ack_pending": 100}, {"max_ack_pending": 2}])
async def test_a_stream_that_allows_few_unacknowledged_messages_is_read(limits: dict[str, int]) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d"], consumer_limits=limits)
        await js.publish("d", 5)
        async with reading(trigger(server.url, subject="d"), context("trigger")) as reader:
            seen = 0
            async with asyncio.timeout(20):
                while seen < 5:
                    for delivery in await reader.next():
                        seen += 1
                        await delivery.settle(DONE)
        config = (await js.consumer("D", OWN_NAME))["config"]
        assert config["max_ack_pending"] == limits["max_ack_pending"]
        async with reading(trigger(server.url, subject="d"), context("trigger")) as reader:
            assert reader.report == (True, "", "")


async def test_an_account_that_allows_few_unacknowledged_messages_is_used() -> None:
    text = """
    accounts { A { users: [{user: a, password: a}], jetstream: {max_ack_pending: 50} } }
    no_auth_user: a
    """
    async with nats_server(config=text) as server, jetstream(server.url) as js:
        await js.create("D", ["d"])
        await js.publish("d", 5)
        async with reading(trigger(server.url, subject="d"), context("trigger")) as reader:
            await reader.until(5)
        assert (await js.consumer("D", OWN_NAME))["config"]["max_ack_pending"] == 50


# --- consumers and streams of version 0.1.0


async def test_stream_consumer_and_dead_letters_of_version_0_1_0_are_taken_over() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("ORDERS", ["orders.>"])
        await js.publish("orders.1", 12)
        old = await consumer(
            js, "ORDERS", OWN_NAME, ack_wait=30_000_000_000, max_ack_pending=1_000, filter_subject="orders.>",
            replay_policy="instant", deliver_policy="all",
        )  # fmt: skip
        await _acknowledge(js, "ORDERS", OWN_NAME, 7)
        given = context("trigger")
        spec = trigger(server.url, subject="orders.>")
        letters = spec.dead_letters(given)
        assert letters is not None
        async with reading(spec, given) as reader:
            found = await reader.until(5)
            assert [delivery.event.id for delivery in found] == [f"ORDERS/{number}" for number in range(8, 13)]
            created = (await js.api("STREAM.INFO.ORDERS"))["created"]
            assert all(
                (delivery.position or "").startswith("ORDERS@") and created[20:].strip("Z") in (delivery.position or "")
                for delivery in found
            )
            assert reader.report == (True, "", "")
            config = (await js.consumer("ORDERS", OWN_NAME))["config"]
            assert without_metadata(config) == without_metadata(old)
            assert config["metadata"]["kubeirq.dev/trigger"] == "default/trigger"
            await letters.prepare()
            await letters.write(
                DeadLetter("uid-of-trigger", "default", "trigger", "function", "p", found[0].event, "R", "m", 1.0, b"")
            )
            assert await letters.count() == 1


async def test_a_chosen_durable_of_version_0_1_0_is_taken_over() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d"])
        await js.publish("d", 3)
        await consumer(
            js, "D", "chosen", ack_wait=30_000_000_000, max_ack_pending=1_000, filter_subject="d",
            replay_policy="instant", deliver_policy="all",
        )  # fmt: skip
        await _acknowledge(js, "D", "chosen", 2)
        async with reading(trigger(server.url, subject="d", durable="chosen"), context("a")) as reader:
            assert [delivery.event.data for delivery in await reader.until(1)] == [b"2"]
            assert "kubeirq.dev/trigger" in (await js.consumer("D", "chosen"))["config"]["metadata"]
        async with reading(trigger(server.url, subject="d", durable="chosen", ackWaitSeconds=5), context("a")):
            assert (await js.consumer("D", "chosen"))["config"]["ack_wait"] == 5_000_000_000


async def _acknowledge(js: JetStream, stream: str, name: str, count: int) -> None:
    subscription = await js.connection.jetstream().pull_subscribe_bind(name, stream)
    for message in await subscription.fetch(count, timeout=5):
        await message.ack_sync()
    await subscription.unsubscribe()


async def test_a_trigger_keeps_its_place_over_a_restart_of_the_same_version() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("D", ["d"])
        given = context("trigger")
        async with reading(trigger(server.url, subject="d", start="new"), given) as reader:
            await js.publish("d", 3)
            await reader.until(3)
        await js.publish("d", 1, b"more")
        async with reading(trigger(server.url, subject="d", start="new"), later(given)) as reader:
            assert [found.event.data for found in await reader.until(1)] == [b"more"]
