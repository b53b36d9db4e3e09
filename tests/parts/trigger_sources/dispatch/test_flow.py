"""A flow from a source to a function over real sockets: every event settled once, in order, none lost."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from servers.broker import BROKERS, Broker, ListTrigger
from servers.function import function as runtime
from servers.ledger import Books, clean, judge
from servers.scripted import Answer, Call, scripted
from servers.stores import ComposedStore

from trigger_sources.context import Context
from trigger_sources.dead_letters import DeadLetter
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.held import Seen
from trigger_sources.dispatch.host import EventStore, LocalHost
from trigger_sources.dispatch.status import Condition
from trigger_sources.events import Event
from trigger_sources.http.gateway import Gateway
from trigger_sources.source import MissingSecret
from trigger_sources.spec import SecretRef
from trigger_sources.stores.none import NoStore
from trigger_sources.stores.sqlite import Store

FAST = {"backoffSeconds": 0.01, "backoffMaxSeconds": 0.05}


@pytest.fixture(autouse=True, params=[False, True], ids=["settled in a while", "settled at once"])
def both_ways_to_settle(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fabric goes two ways from an answer to settled: with a task, and without one."""
    monkeypatch.setattr(Broker, "all_settle_at_once", request.param)


def no_secrets(namespace: str, reference: SecretRef) -> str:
    raise MissingSecret(f"no secret {reference.name}")


class Bench:
    """One flow with all that is around it."""

    def __init__(self, broker: Broker, flow: Flow, gate: Gate, store: Store, runner: "asyncio.Task[None]") -> None:
        self.broker, self.flow, self.gate, self.store, self.runner = broker, flow, gate, store, runner

    async def until(self, happened: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not happened():
                await asyncio.sleep(0.005)

    async def letters(self) -> list[DeadLetter]:
        assert self.flow.dead_letters is not None
        return [letter async for letter in self.flow.dead_letters.letters()]

    def settled(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.broker.final()) >= count


@asynccontextmanager
async def bench(
    url: str,
    tmp_path: Path,
    broker: Broker | None = None,
    grace_seconds: float = 5,
    gate: Gate | None = None,
    events: EventStore | None = None,
    observe: Callable[[Seen], None] | None = None,
    kind: type[ListTrigger] = ListTrigger,
    **spec: Any,
) -> AsyncIterator[Bench]:
    broker = broker or Broker()
    BROKERS["it"] = broker
    trigger = kind.model_validate({"broker": "it", "function": "f", "ordering": "key", "delivery": FAST, **spec})
    gate = gate or Gate("f", url)
    async with Store.open(tmp_path / "state.db") as store:
        kept = store if events is None else ComposedStore(events)
        host = LocalHost(replica="r", store=kept, gateway=Gateway(), secrets=no_secrets, defaults={})
        flow = Flow(
            trigger, kind="ListTrigger", namespace="default", name="t", uid="default/ListTrigger/t",
            function="f", gate=gate, host=host, gate_of=lambda name: gate, observe=observe,
        )  # fmt: skip
        runner = asyncio.create_task(flow.run())
        try:
            yield Bench(broker, flow, gate, store, runner)
        finally:
            await flow.stop(grace_seconds)
            await asyncio.gather(runner, return_exceptions=runner.cancelled())
            assert gate.in_flight == 0, "the gate was told how each call went"
            await gate.aclose()
            counters = flow.dispatcher.counters
            settled = (
                counters.delivered + counters.filtered + counters.deadLettered + counters.dropped + counters.returned
            )
            assert counters.received == settled + counters.withdrawn + flow.dispatcher.held


async def each(letters: Sequence[DeadLetter]) -> AsyncIterator[DeadLetter]:
    for letter in letters:
        yield letter


async def test_every_event_is_delivered_in_order_per_key(tmp_path: Path) -> None:
    async with scripted() as function, bench(function.url, tmp_path) as it:
        for number in range(500):
            it.broker.publish(b'{"n": %d}' % number, key=f"k{number % 7}")
        await it.until(it.settled(500))
        assert set(it.broker.final().values()) == {"delivered"}
        assert all(len(outcomes) == 1 for outcomes in it.broker.outcomes.values()), "settled exactly once"
        for key in range(7):
            numbers = [int(c.body[6:-1]) for c in function.calls if int(c.body[6:-1]) % 7 == key]
            assert numbers == sorted(numbers)
        call = function.calls[0]
        assert call.headers["ce-id"] == "event-1"
        assert call.headers["kubeirq-attempt"] == "1"
        assert call.headers["content-type"] == "application/json"


async def test_a_source_that_lost_its_claim_starts_no_event(tmp_path: Path) -> None:
    claims = False
    async with scripted() as function, bench(function.url, tmp_path) as it:
        ask_again = it.flow.context.start_only_while(lambda: claims)
        it.broker.publish(b"1", key="a")
        await it.until(lambda: it.flow.dispatcher.held == 1)
        it.flow.dispatcher.nudge()
        assert not it.flow.dispatcher.states().get("running")
        claims = True
        ask_again()
        await it.until(it.settled(1))
    assert len(function.calls) == 1


async def test_random_failures_cost_no_event_and_no_order(tmp_path: Path) -> None:
    dice = random.Random(7)
    good: list[int] = []

    async def decide(call: Call) -> Answer:
        await asyncio.sleep(dice.random() * 0.002)
        if dice.random() < 0.2:
            return dice.choice([500, 503, 429, 408])
        good.append(int(call.body))
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path) as it:
        for number in range(600):
            it.broker.publish(b"%d" % number, key=f"k{number % 20}")
        await it.until(it.settled(600), 30)
    found = judge(Books({number: number % 20 for number in range(600)}, good))
    assert str(found) == clean(600), found.breaches


async def test_concurrency_is_kept_and_used(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        await asyncio.sleep(0.01)
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, concurrency=5) as it:
        for _ in range(60):
            it.broker.publish()
        await it.until(it.settled(60))
        assert function.most_running == 5


async def test_without_order_nothing_waits_for_its_key(tmp_path: Path) -> None:
    both = asyncio.Barrier(2)

    async def decide(call: Call) -> Answer:
        await both.wait()
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, ordering="none") as it:
        it.broker.publish(key="same")
        it.broker.publish(key="same")
        await it.until(it.settled(2))


async def test_a_permanent_answer_becomes_a_dead_letter_with_everything(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return (422, {}, b"no such customer" * 100) if b"bad" in call.body else 200

    async with scripted(decide) as function, bench(function.url, tmp_path) as it:
        it.broker.publish(b'"bad"', key="k")
        it.broker.publish(b'"good"', key="k")
        await it.until(it.settled(2))
        assert it.broker.final() == {"1": "deadLettered", "2": "delivered"}
        (letter,) = await it.letters()
        assert (letter.position, letter.key, letter.event.data, letter.reason) == (
            "1",
            b"k",
            b'"bad"',
            "PermanentAnswer",
        )
        (attempt,) = letter.attempts
        assert (attempt.status, len(attempt.answer_head)) == (422, 1024)
        assert attempt.error.startswith("no such customerno such")
        assert letter.message == f"status 422: {attempt.error}"
        assert it.flow.status().dead_letters == 1


async def test_a_poison_key_holds_no_other_key_and_ends_as_a_dead_letter(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 500 if b"poison" in call.body else 200

    policy = {**FAST, "attempts": 5}
    async with scripted(decide) as function, bench(function.url, tmp_path, delivery=policy) as it:
        it.broker.publish(b'"poison"', key="p")
        behind = it.broker.publish(b"1", key="p")
        for number in range(100):
            it.broker.publish(b"%d" % number, key=f"k{number}")
        await it.until(it.settled(102))
        (letter,) = await it.letters()
        assert letter.reason == "AttemptsExhausted"
        assert [attempt.status for attempt in letter.attempts] == [500] * 5
        assert it.broker.final()[behind] == "delivered"
        poison_calls = [index for index, call in enumerate(function.calls) if b"poison" in call.body]
        assert poison_calls[-1] > 50, "the others did not wait for its last try"


async def test_a_redriven_dead_letter_is_delivered_and_removed(tmp_path: Path) -> None:
    mended = False

    async def decide(call: Call) -> Answer:
        return 200 if mended else 400

    async with scripted(decide) as function, bench(function.url, tmp_path) as it:
        it.broker.publish(b"1", key="a")
        it.broker.publish(b"2", key="a")
        await it.until(it.settled(2))
        letters = await it.letters()
        again = [outcome.kind async for _, outcome in it.flow.redrive(each(letters), None)]
        assert again == ["deadLettered", "deadLettered"]
        (first, second) = await it.letters()
        assert (first.redriven, len(first.attempts)) == (1, 2), "its history grew"
        mended = True
        again = [outcome.kind async for _, outcome in it.flow.redrive(each([first, second]), 1000)]
        assert again == ["delivered", "delivered"]
        assert [call.body for call in function.calls[-2:]] == [b"1", b"2"], "in key order among themselves"
        assert await it.letters() == []
        assert it.flow.status().dead_letters == 0


async def test_a_function_that_is_down_costs_no_attempt_and_pulls_nothing(tmp_path: Path) -> None:
    async with scripted() as function:
        await function.stop()
        async with bench(function.url, tmp_path, delivery={**FAST, "attempts": 2}) as it:
            for number in range(50):
                it.broker.publish(b"%d" % number, key=f"k{number}")
            await it.until(lambda: it.gate.is_down)
            first = it.flow.status()
            assert [c.reason for c in first.conditions if c.type == "Delivering"] == ["FunctionDown"]
            it.broker.publish(b"taken by the read that was under way")
            await it.until(lambda: not it.broker.waiting)
            it.broker.publish(b"late")
            await asyncio.sleep(1)  # long enough for four probes: what must not happen has no event to wait for
            assert it.flow.dispatcher.counters.attempts == 0
            assert len(it.broker.waiting) == 1, "nothing is pulled further"
            await function.start()
            await it.until(it.settled(52))
            assert set(it.broker.final().values()) == {"delivered"}
            assert {call.headers["kubeirq-attempt"] for call in function.calls} == {"1"}
        await function.stop()
        await function.start()


async def test_a_flow_whose_events_are_all_withdrawn_finds_out_that_the_function_is_back(tmp_path: Path) -> None:
    """As by a rebalance while the function is down. No event is left that could be the probe."""
    async with scripted() as function:
        await function.stop()
        async with bench(function.url, tmp_path) as it:
            it.broker.publish(b"1", key="a")
            await it.until(lambda: it.gate.is_down)
            it.broker.publish(b"taken by the read that was under way")
            await it.until(lambda: not it.broker.waiting)
            await it.flow.context.withdraw(lambda delivery: True, 0)
            assert it.flow.dispatcher.held == 0
            it.broker.publish(b"2", key="a")
            await function.start()
            await it.until(lambda: any(call.body == b"2" for call in function.calls))


async def test_probes_are_one_at_a_time_and_grow_apart(tmp_path: Path) -> None:
    async with scripted() as function:
        await function.stop()
        refused: list[float] = []
        gate = Gate("f", function.url)
        seen = gate.unreachable
        gate.unreachable = lambda reason: (refused.append(time.monotonic()), seen(reason))  # type: ignore[method-assign,func-returns-value,assignment]
        async with bench(function.url, tmp_path, gate=gate, concurrency=1) as it:
            for number in range(20):
                it.broker.publish(key=f"{number}")
            await it.until(lambda: len(refused) >= 5)
            gaps = [later - earlier for earlier, later in itertools.pairwise(refused)]
            assert gaps[3] > gaps[0] * 3
            await function.start()
            await it.until(it.settled(20), 15)
        await function.stop()
        await function.start()


async def test_opening_the_gate_delivers_at_once(tmp_path: Path) -> None:
    async with scripted() as function:
        gate = Gate("f", function.url)
        gate.close("starting")
        async with bench(function.url, tmp_path, gate=gate) as it:
            it.broker.publish()
            await asyncio.sleep(0.1)
            assert function.calls == []
            gate.open()
            await it.until(it.settled(1))


async def test_a_broken_connection_calls_no_function_twice(tmp_path: Path) -> None:
    """Twenty calls run when the broker goes: it hands all twenty out again, and none is started a second time."""
    go = asyncio.Event()

    async def decide(call: Call) -> Answer:
        await go.wait()
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, concurrency=20) as it:
        for number in range(20):
            it.broker.publish(key=f"{number}")
        await it.until(lambda: function.running == 20)
        it.broker.broken = "connection reset"
        it.broker.news.set()
        await it.until(lambda: it.flow.dispatcher.counters.restarts == 1)
        it.broker.redeliver()
        await it.until(lambda: it.flow.dispatcher.counters.redelivered == 20)
        go.set()
        await it.until(it.settled(20))
        assert len(function.calls) == 20
        assert it.flow.dispatcher.counters.received == 20


async def test_a_settle_that_fails_is_made_up_for_when_the_position_returns(tmp_path: Path) -> None:
    async with scripted() as function, bench(function.url, tmp_path) as it:
        it.broker.settle_fails = lambda position: True
        for number in range(10):
            it.broker.publish(key=f"{number}")
        await it.until(lambda: len(function.calls) == 10 and it.flow.dispatcher.held == 0)
        assert it.broker.final() == {}
        it.broker.settle_fails = lambda position: False
        it.broker.redeliver()
        await it.until(it.settled(10))
        assert len(function.calls) == 10, "the outcome was kept: no second call"


async def test_stopping_settles_what_runs_and_returns_the_rest(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        await asyncio.sleep(0.2)
        return 200 if b"good" in call.body else 500

    broker = Broker()
    slow = {"backoffSeconds": 30, "backoffMaxSeconds": 30}
    async with scripted(decide) as function, bench(function.url, tmp_path, broker, delivery=slow, concurrency=2) as it:
        broker.publish(b'"bad"', key="b")
        broker.publish(b'"good"', key="g")
        await it.until(lambda: function.running == 2)
        started = time.monotonic()
        await it.flow.stop(5)
        assert time.monotonic() - started < 3, "a retry in half a minute is not waited for"
        assert broker.final() == {"2": "delivered"}
        assert [outcome.kind for outcome in broker.outcomes["1"]] == ["returned"]


async def test_a_flow_that_is_stopped_while_the_lag_is_being_told_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for turns in range(40):  # of the event loop, that it takes to tell it
        starts, goes_on = asyncio.Event(), asyncio.Event()

        async def prepare(*_: object, starts: asyncio.Event = starts, goes_on: asyncio.Event = goes_on) -> None:
            starts.set()
            await goes_on.wait()

        async def lag(*_: object, turns: int = turns) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        async def deliveries(*_: object) -> AsyncIterator[list[Delivery]]:
            for nothing in ():
                yield nothing

        monkeypatch.setattr(ListTrigger, "prepare", prepare)
        monkeypatch.setattr(ListTrigger, "deliveries", deliveries)
        monkeypatch.setattr(ListTrigger, "lag", lag)
        async with asyncio.timeout(10), bench("http://127.0.0.1:1/", tmp_path):
            await starts.wait()
            goes_on.set()


async def test_a_call_that_outlasts_the_grace_is_given_back_and_its_late_answer_settles_nothing(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def decide(call: Call) -> Answer:
        if call.body == b"1":
            await go.wait()
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, ordering="none") as it:
        it.broker.publish(b"0")  # leaves a kept connection for the next
        await it.until(it.settled(1))
        it.broker.publish(b"1")
        await it.until(lambda: function.running == 1)
        await it.flow.stop(0.05)
        assert it.gate.in_flight == 0
        go.set()
        await it.until(lambda: function.running == 0)
        await asyncio.sleep(0.05)  # nothing is to happen
        assert [outcome.kind for outcome in it.broker.outcomes["2"]] == ["returned"]


async def test_dead_letters_that_cannot_be_written_hold_their_lane_only(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 400 if b"bad" in call.body else 200

    async with scripted(decide) as function, bench(function.url, tmp_path) as it:
        await it.until(lambda: it.flow.dead_letters is not None)
        letters = it.flow.dead_letters
        assert letters is not None
        whole, tries = letters.write, 0

        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(letters, name)

            async def write(self, letter: DeadLetter) -> None:
                nonlocal tries
                tries += 1
                if tries < 3:
                    raise OSError("disk full")
                await whole(letter)

        it.flow.dispatcher.letters.store = Full()  # type: ignore[assignment]
        it.broker.publish(b'"bad"', key="k")
        it.broker.publish(b"1", key="k")
        it.broker.publish(b"2", key="other")
        await it.until(lambda: it.broker.final().get("3") == "delivered")
        assert set(it.broker.final()) == {"3"}, "nothing is acknowledged before the dead letter is durable"
        assert any(c.reason == "DeadLettersUnwritable" for c in it.flow.status().conditions)
        await it.until(it.settled(3))
        assert it.broker.final()["1"] == "deadLettered"


async def test_park_holds_the_lane_until_someone_acts(tmp_path: Path) -> None:
    mended = False

    async def decide(call: Call) -> Answer:
        return 200 if mended or b"bad" not in call.body else 422

    policy = {**FAST, "onFailure": "park"}
    async with scripted(decide) as function, bench(function.url, tmp_path, delivery=policy) as it:
        it.broker.publish(b'"bad"', key="a")
        it.broker.publish(b"1", key="a")
        it.broker.publish(b'"bad"', key="b")
        it.broker.publish(b"2", key="c")
        await it.until(it.settled(1))
        await it.until(lambda: len([v for v in it.flow.lanes_view() if v.state == "parked"]) == 2)
        assert {(v.key, v.events) for v in it.flow.lanes_view()} == {(b"a", 2), (b"b", 1)}
        assert it.flow.skip("b") == 1
        mended = True
        assert it.flow.release("a") == 1
        await it.until(it.settled(4))
        assert it.broker.final() == {"1": "delivered", "2": "delivered", "3": "deadLettered", "4": "delivered"}


async def test_a_bad_deploy_does_not_empty_the_source_into_the_dead_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trigger_sources.dispatch.hold.TRY_AGAIN_SECONDS", 0.1)
    mended = False

    async def decide(call: Call) -> Answer:
        return 200 if mended else 400

    async with scripted(decide) as function, bench(function.url, tmp_path, concurrency=4) as it:
        for number in range(300):
            it.broker.publish(key=f"{number}")
        await it.until(lambda: it.flow.dispatcher.hold.since is not None)
        calls = len(function.calls)
        await it.until(lambda: len(function.calls) >= calls + 3)  # one is tried now and then
        assert len(await it.letters()) == 19
        assert any(c.reason == "EverythingFails" for c in it.flow.status().conditions)
        mended = True
        await it.until(it.settled(300))
        assert list(it.broker.final().values()).count("deadLettered") == 19


async def test_parked_lanes_do_not_count_as_the_events_that_a_hold_tries(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 400 if call.body == b'"bad"' else 200

    policy = {**FAST, "onFailure": "park"}
    async with scripted(decide) as function, bench(function.url, tmp_path, delivery=policy) as it:
        for number in range(25):  # as after a rebalance: the parked events of a partition come again in a row
            it.broker.publish(b'"bad"', key=f"bad-{number}")
            it.broker.publish(b"0", key=f"bad-{number}")
        await it.until(lambda: it.flow.dispatcher.hold.since is not None)
        calls = len(function.calls)
        it.broker.publish(b'"bad"', key="bad-25")  # a read was under way when the hold began, and takes this one
        await it.until(lambda: len(function.calls) > calls)
        for number in range(10):
            it.broker.publish(b"1", key=f"good-{number}")
        await it.until(it.settled(10))
        await it.until(lambda: it.flow.dispatcher.states().get("parked", 0) == 26)
        assert reasons(it) == {"Connected", "Parked"}


async def test_a_hold_takes_more_until_enough_lanes_were_tried(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 400 if call.body == b'"bad"' else 200

    async with scripted(decide) as function, bench(function.url, tmp_path) as it:
        for _ in range(60):
            it.broker.publish(b'"bad"', key="bad")
        await it.until(lambda: it.flow.dispatcher.hold.since is not None)
        it.broker.publish(b'"bad"', key="bad")  # a read was under way when the hold began, and takes this one
        await it.until(lambda: it.flow.dispatcher.counters.received == 61)
        it.broker.publish(b"1", key="good")  # it shows that not everything fails
        await it.until(lambda: it.broker.final().get("62") == "delivered")


async def test_the_filter_settles_what_it_does_not_let_through(tmp_path: Path) -> None:
    async with scripted() as function, bench(function.url, tmp_path, filter="data.total > 100") as it:
        it.broker.publish(b'{"total": 150}')
        it.broker.publish(b'{"total": 50}')
        it.broker.publish(b"{}")
        await it.until(it.settled(3))
        assert it.broker.final() == {"1": "delivered", "2": "filtered", "3": "deadLettered"}
        assert len(function.calls) == 1
        (letter,) = await it.letters()
        assert letter.reason == "FilterError"


@pytest.mark.parametrize(("policy", "outcome"), [("deliver", "delivered"), ("drop", "dropped")])
async def test_a_filter_error_follows_its_policy(tmp_path: Path, policy: str, outcome: str) -> None:
    async with scripted() as function, bench(function.url, tmp_path, filter="data.total > 1", filterError=policy) as it:
        it.broker.publish(b"{}")
        await it.until(it.settled(1))
        assert it.broker.final() == {"1": outcome}


def reasons(it: Bench) -> set[str]:
    return {condition.reason for condition in it.flow.status().conditions}


async def test_delivering_is_unknown_while_the_source_is_not_connected_and_nothing_is_held(tmp_path: Path) -> None:
    broker = Broker(always_broken="nobody is there")
    async with scripted() as function, bench(function.url, tmp_path, broker) as it:
        await it.until(lambda: "Broken" in reasons(it))
        ready, connected, delivering = it.flow.status().conditions
        assert (connected.status, connected.reason) == ("False", "Broken")
        assert (delivering.status, delivering.reason) == ("Unknown", "NothingArrives")
        assert (ready.status, ready.reason) == ("False", "Broken")
        assert not it.flow.reading().delivering
        broker.always_broken = None
        it.broker.publish(b"1")
        await it.until(it.settled(1))
        assert [condition.status for condition in it.flow.status().conditions] == ["True"] * 3


async def test_many_events_with_a_costly_filter_leave_the_loop_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock is 4 ms later than the last one: so is the end of each filter after its beginning."""
    clock = itertools.count(step=0.004)
    monkeypatch.setattr("trigger_sources.dispatch.loop_time.time.perf_counter", lambda: next(clock))
    async with scripted() as function, bench(function.url, tmp_path, filter="false") as it:
        for number in range(200):
            it.broker.publish(key=f"{number}")
        counters, most = it.flow.dispatcher.counters, 0
        while (before := counters.filtered) < 200:
            await asyncio.sleep(0)
            most = max(most, counters.filtered - before)
        await it.until(it.settled(200))
        assert most <= 6, "two rounds at most, each with three filters"
        assert counters.filter_seconds == pytest.approx(200 * 0.004)


async def test_a_filter_that_fails_on_every_event_holds_its_trigger(tmp_path: Path) -> None:
    async with scripted() as function, bench(function.url, tmp_path, filter="data.totl > 1", concurrency=4) as it:
        for number in range(50):
            it.broker.publish(b'{"total": 2}', key=f"{number % 7}")
        await it.until(lambda: "FilterFails" in reasons(it))
        assert len(await it.letters()) == 19
        assert not function.calls
        told = [condition for condition in it.flow.status().conditions if condition.reason == "FilterFails"]
        assert {(condition.type, condition.status) for condition in told} == {
            ("Ready", "False"),
            ("Delivering", "False"),
        }
        assert "first 20 events; last: spec.filter: " in told[0].message
        assert told[0].message.startswith("spec.filter (data.totl > 1) fails on each of")


async def test_an_event_on_which_the_filter_works_ends_the_hold(tmp_path: Path) -> None:
    async with scripted() as function, bench(function.url, tmp_path, filter="data.total > 1") as it:
        for number in range(25):
            it.broker.publish(b"{}", key=f"{number}")
        await it.until(lambda: "FilterFails" in reasons(it))
        it.broker.publish(b'{"total": 2}', key="good")
        await it.until(it.settled(26))
        outcomes = list(it.broker.final().values())
        assert (outcomes.count("deadLettered"), outcomes.count("delivered")) == (25, 1)


async def test_a_person_ends_the_hold_of_a_filter(tmp_path: Path) -> None:
    async with scripted() as function, bench(function.url, tmp_path, filter="data.total > 1") as it:
        for number in range(25):
            it.broker.publish(b"{}", key=f"{number}")
        await it.until(lambda: "FilterFails" in reasons(it))
        it.flow.resume()
        await it.until(it.settled(25))
        assert "FilterFails" not in reasons(it)


async def test_bad_events_after_a_good_one_hold_nothing(tmp_path: Path) -> None:
    async with scripted() as function, bench(function.url, tmp_path, filter="data.total > 1") as it:
        it.broker.publish(b'{"total": 0}')
        for number in range(40):
            it.broker.publish(b"{}", key=f"{number}")
        await it.until(it.settled(41))
        assert len(await it.letters()) == 40


async def test_no_more_is_taken_than_there_is_room_for(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def decide(call: Call) -> Answer:
        await go.wait()
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, ordering="none", concurrency=2) as it:
        for _ in range(1_000):
            it.broker.publish()
        await it.until(lambda: it.flow.dispatcher.held >= 64)
        await it.until(lambda: function.running == 2)
        assert it.broker.most_taken == it.flow.dispatcher.room.limit == 64
        go.set()
        await it.until(it.settled(1_000))
        assert it.broker.most_taken <= 64


async def test_what_is_held_is_extended(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def decide(call: Call) -> Answer:
        await go.wait()
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, concurrency=1) as it:
        it.broker.publish(key="a")
        it.broker.publish(key="b")
        await it.until(lambda: min(it.broker.extended.get(p, 0) for p in ("1", "2")) >= 3)
        go.set()


async def test_withdrawn_events_are_never_settled(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def decide(call: Call) -> Answer:
        await go.wait()
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, concurrency=2) as it:
        for number in range(10):
            it.broker.publish(b"%d" % number, key="ab"[number % 2])
        await it.until(lambda: function.running == 2)
        await it.flow.context.withdraw(lambda delivery: delivery.key == b"a", 0.1)
        go.set()
        await it.until(it.settled(5))
        assert set(it.broker.final()) == {"2", "4", "6", "8", "10"}
        assert it.flow.dispatcher.held == 0
        assert it.flow.dispatcher.counters.withdrawn == 5


@pytest.mark.parametrize("grace_seconds", [0, 0.002, 0.01])
async def test_withdrawing_amid_answers_leaves_every_place_free(tmp_path: Path, grace_seconds: float) -> None:
    """Calls are given up at any moment: before, while and after their answers come. None takes its place with it."""
    dice = random.Random(11)

    async def decide(call: Call) -> Answer:
        await asyncio.sleep(dice.random() * 0.003)
        return dice.choice([200, 200, 500])

    spec = {"concurrency": 4, "delivery": {**FAST, "holdAfter": None}}
    async with scripted(decide) as function, bench(function.url, tmp_path, **spec) as it:
        for n in range(40):
            called = len(function.calls)
            for number in range(12):
                it.broker.publish(key=f"{number}")
            await it.until(lambda called=called: len(function.calls) > called)
            await asyncio.sleep(dice.random() * 0.006)
            lost = f"{n % 12}".encode()
            await it.flow.context.withdraw(lambda delivery, lost=lost: delivery.key <= lost, grace_seconds)
        withdrawn = it.flow.dispatcher.counters.withdrawn
        assert withdrawn > 0
        await it.until(lambda: it.flow.dispatcher.held == 0)
        assert it.gate.in_flight == 0
        function.calls.clear()
        four = asyncio.Barrier(4)

        async def together(call: Call) -> Answer:
            await four.wait()
            return 200

        function.decide = together
        settled = len(it.broker.final())
        for number in range(4):
            it.broker.publish(key=f"{number}")
        await it.until(it.settled(settled + 4))


async def test_an_event_that_is_withdrawn_just_as_its_answer_came_leaves_its_place(tmp_path: Path) -> None:
    """Its task is cancelled before it has begun, where there is one."""
    withdrawing: list[asyncio.Task[None]] = []

    def observe(seen: Seen) -> None:
        if len(withdrawing) < 3:
            withdrawing.append(asyncio.create_task(it.flow.context.withdraw(lambda delivery: True, 0)))

    async with scripted() as function, bench(function.url, tmp_path, observe=observe, concurrency=1) as it:
        for number in range(1, 4):
            it.broker.publish()
            await it.until(lambda number=number: len(withdrawing) == number and withdrawing[-1].done())
        settled = len(it.broker.final())
        it.broker.publish()
        await it.until(it.settled(settled + 1))


async def test_withdrawing_grants_what_runs_its_grace(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def decide(call: Call) -> Answer:
        await go.wait()
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path) as it:
        it.broker.publish(key="a")
        it.broker.publish(key="a")
        await it.until(lambda: function.running == 1)
        asyncio.get_running_loop().call_later(0.05, go.set)
        await it.flow.context.withdraw(lambda delivery: True, 5)
        assert it.broker.final() == {"1": "delivered"}


async def test_dead_letters_are_redriven_though_parked_lanes_fill_the_room(tmp_path: Path) -> None:
    mended = False

    async def decide(call: Call) -> Answer:
        return 200 if mended else 400

    spec = {"ordering": "none", "delivery": {"attempts": 1, "onFailure": "park", "holdAfter": None}}
    async with scripted(decide) as function, bench(function.url, tmp_path, **spec) as it:
        for _ in range(100):
            it.broker.publish()
        await it.until(lambda: it.flow.dispatcher.states() == {"parked": 64} and it.flow.dispatcher.room.free == 0)
        mended = True
        place = it.flow.dead_letters
        assert place is not None
        held = it.flow.dispatcher.events()[0]
        held_letters = [
            DeadLetter(
                trigger_uid=it.flow.identity.uid, namespace="default", trigger="t", function="f", position=f"dead/{n}",
                event=held.delivery.event, reason="PermanentAnswer", message="status 400", failed_at=float(n),
            )
            for n in range(200)
        ]  # fmt: skip
        for letter in held_letters:
            await place.write(letter)
        async with asyncio.timeout(20):
            outcomes = [outcome.kind async for _, outcome in it.flow.redrive(place.letters(), None)]
        assert outcomes == ["delivered"] * 200
        assert await place.count() == 0
        assert it.flow.dispatcher.release(None) == 64


async def test_a_redrive_of_events_that_fail_again_comes_to_an_end(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 400

    async with scripted(decide) as function, bench(function.url, tmp_path, delivery={"holdAfter": None}) as it:
        for number in range(30):
            it.broker.publish(key=f"{number}")
        await it.until(it.settled(30))
        place = it.flow.dead_letters
        assert place is not None
        async with asyncio.timeout(20):
            outcomes = [outcome.kind async for _, outcome in it.flow.redrive(place.letters(), None)]
        assert outcomes == ["deadLettered"] * 30
        assert await place.count() == 30 == it.flow.dispatcher.letters.count


class CancelledOnce(ListTrigger):
    """Its client ends a read, the closing of the generator, and a preparation with the error of a task of its own."""

    left: ClassVar[list[str]] = []

    async def prepare(self, context: Context) -> None:
        self._cancelled("prepare")

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        try:
            async with aclosing(super().deliveries(context)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    yield batch
                    self._cancelled("read")
        finally:
            self._cancelled("close")

    def _cancelled(self, at: str) -> None:
        if at in self.left:
            self.left.remove(at)
            raise asyncio.CancelledError


@pytest.mark.parametrize("at", [["prepare"], ["read"], ["read", "close"]])
async def test_a_source_whose_client_cancels_itself_is_started_again(tmp_path: Path, at: list[str]) -> None:
    CancelledOnce.left[:] = at
    async with scripted() as function, bench(function.url, tmp_path, kind=CancelledOnce) as it:
        it.broker.publish()
        await it.until(lambda: CancelledOnce.left == [])
        it.broker.publish()
        await it.until(lambda: "2" in it.broker.final())
        assert not it.runner.done()


async def test_a_redriven_event_is_not_withdrawn_with_the_partition_that_it_came_from(tmp_path: Path) -> None:
    """The group may assign the partition to another replica meanwhile. The dead letter stays here."""
    go, mended = asyncio.Event(), False

    async def decide(call: Call) -> Answer:
        if not mended:
            return 400
        await go.wait()
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, delivery={"holdAfter": None}) as it:
        for number in range(3):
            it.broker.publish(key=f"{number % 2}")
        await it.until(it.settled(3))
        mended = True
        letters = await it.letters()
        redriving = asyncio.create_task(_kinds(it.flow.redrive(each(letters), None)))
        await it.until(lambda: function.running == 2)
        it.broker.publish(key="0")  # a live event behind a redriven one
        await it.until(lambda: it.flow.dispatcher.held == 4)
        await it.flow.context.withdraw(lambda delivery: True, 0.05)
        assert it.flow.dispatcher.counters.withdrawn == 1
        go.set()
        assert await asyncio.wait_for(redriving, 10) == ["delivered"] * 3
        assert await it.letters() == []


async def test_a_redrive_ends_when_the_trigger_stops(tmp_path: Path) -> None:
    go, failing = asyncio.Event(), True

    async def decide(call: Call) -> Answer:
        if failing:
            return 400
        await go.wait()
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, delivery={"holdAfter": None}) as it:
        for number in range(200):
            it.broker.publish(key=f"{number}")
        await it.until(it.settled(200))
        failing = False
        letters = await it.letters()
        redriving = asyncio.create_task(_kinds(it.flow.redrive(each(letters), None)))
        await it.until(lambda: function.running == 16)
        stopping = asyncio.create_task(it.flow.stop(10))
        await it.until(lambda: it.flow.dispatcher.held <= 16)
        go.set()
        await asyncio.wait_for(stopping, 5)
        outcomes = await asyncio.wait_for(redriving, 5)
        assert outcomes.count("delivered") == 16
        assert set(outcomes) == {"delivered", "returned"}
        assert it.flow.dispatcher.letters.count == 184


async def test_a_redrive_goes_on_past_a_letter_that_its_place_does_not_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = True

    async def decide(call: Call) -> Answer:
        return 400 if failing else 200

    async with scripted(decide) as function, bench(function.url, tmp_path) as it:
        for number in range(2):
            it.broker.publish(key=f"{number}")
        await it.until(it.settled(2))
        first, second = await it.letters()
        failing, place = False, it.flow.dead_letters
        assert place is not None
        remove = place.remove

        async def refuse(letter: DeadLetter) -> None:
            if letter == first:
                raise OSError("no broker")
            await remove(letter)

        monkeypatch.setattr(place, "remove", refuse)
        async with asyncio.timeout(10):
            ended = [outcome async for _, outcome in it.flow.redrive(each([first, second]), None)]
        assert [outcome.kind for outcome in ended].count("delivered") == 1
        (kept,) = [outcome for outcome in ended if outcome.kind == "returned"]
        assert (kept.reason, kept.message) == (
            "LetterNotRemoved", "its event ended (delivered), and it could not be removed: no broker",
        )  # fmt: skip
        assert await it.letters() == [first]
        monkeypatch.setattr(place, "remove", remove)
        calls = len(function.calls)
        async with asyncio.timeout(10):
            assert await _kinds(it.flow.redrive(each([first]), None)) == ["delivered"]
        assert len(function.calls) == calls, "the event is not delivered twice: only its removal was left"
        assert await it.letters() == []


@pytest.mark.parametrize("on_failure", ["park", "drop"])
async def test_an_event_that_is_redriven_and_fails_again_stays_a_dead_letter(tmp_path: Path, on_failure: str) -> None:
    """The policy was another one when the dead letter was written."""

    async def decide(call: Call) -> Answer:
        return 400

    spec = {"delivery": {**FAST, "holdAfter": None, "onFailure": on_failure}}
    async with scripted(decide) as function, bench(function.url, tmp_path, **spec) as it:
        await it.until(lambda: it.flow.dead_letters is not None)
        place = it.flow.dead_letters
        assert place is not None
        letter = DeadLetter(
            trigger_uid=it.flow.identity.uid, namespace="default", trigger="t", function="f", position="dead/1",
            event=Event("1", "/s", "t", b"1"), reason="PermanentAnswer", message="status 400", failed_at=1.0, key=b"a",
        )  # fmt: skip
        await place.write(letter)
        outcomes = await asyncio.wait_for(_kinds(it.flow.redrive(place.letters(), None)), 10)
        assert outcomes == ["deadLettered"]
        assert [(found.position, found.redriven) for found in await it.letters()] == [("dead/1", 1)]
        assert it.flow.dispatcher.held == 0


async def test_a_redriven_event_does_not_wait_behind_a_parked_lane(tmp_path: Path) -> None:
    """As after `kubeirq lanes skip`: the skipped event is a dead letter, and the next one of its key is parked."""

    async def decide(call: Call) -> Answer:
        return 200 if call.body == b"good" else 400

    spec = {"delivery": {**FAST, "holdAfter": None, "onFailure": "park"}}
    async with scripted(decide) as function, bench(function.url, tmp_path, **spec) as it:
        it.broker.publish(b"1", key="a")
        it.broker.publish(b"2", key="a")
        await it.until(lambda: it.flow.dispatcher.states().get("parked") == 1)
        it.flow.skip("a")
        await it.until(lambda: it.flow.dispatcher.states() == {"parked": 1})
        place = it.flow.dead_letters
        assert place is not None
        (skipped,) = await it.letters()
        other = replace(skipped, position="other", key=b"b", event=replace(skipped.event, data=b"good"))
        await place.write(other)
        outcomes = [
            (letter.key, outcome.kind, outcome.reason)
            async for letter, outcome in it.flow.redrive(each([skipped, other]), None)
        ]
        assert set(outcomes) == {(b"a", "returned", "LaneParked"), (b"b", "delivered", "")}
        assert [letter.position for letter in await it.letters()] == [skipped.position]


async def _kinds(redriven: AsyncIterator[tuple[DeadLetter, Outcome]]) -> list[str]:
    return [outcome.kind async for _, outcome in redriven]


async def test_a_stop_gives_its_queue_back_at_once_and_lets_running_events_settle(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def decide(call: Call) -> Answer:
        await go.wait()
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, concurrency=2) as it:
        for number in range(20):
            it.broker.publish(key=f"{number % 4}")
        await it.until(lambda: function.running == 2 and it.flow.dispatcher.held == 20)
        stopping = asyncio.create_task(it.flow.stop(30))
        await it.until(lambda: len(it.broker.outcomes) == 18)
        assert {outcome.kind for outcomes in it.broker.outcomes.values() for outcome in outcomes} == {"returned"}
        assert not stopping.done()
        go.set()
        await stopping
        assert sorted(it.broker.final()) == ["1", "2"]
        assert len(function.calls) == 2


async def test_one_hot_poison_key_leaves_every_other_key_flowing(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 500 if call.body == b"poison" else 200

    async with scripted(decide) as function:
        async with bench(function.url, tmp_path, delivery={"backoffSeconds": 30}, grace_seconds=0) as it:
            for number in range(9_000):
                it.broker.publish(b"poison" if number % 3 == 0 else b"%d" % number, key=f"{number % 3}")
            await it.until(lambda: it.flow.dispatcher.counters.delivered == 6_000, 120)
            assert it.flow.dispatcher.held == 3_000
            assert it.flow.dispatcher.room.free == 1_500
            (condition,) = [found for found in it.flow.status().conditions if found.type == "Delivering"]
            assert condition.message == "1 event waits for another attempt, 2999 queue behind; last: status 500"


async def test_one_poison_key_with_large_events_leaves_every_other_key_flowing(tmp_path: Path) -> None:
    poison = b"poison" * 174_763  # 1 MiB

    async def decide(call: Call) -> Answer:
        return 500 if call.body == poison else 200

    async with scripted(decide) as function:
        async with bench(function.url, tmp_path, delivery={"backoffSeconds": 30}, grace_seconds=0) as it:
            held = 80
            for _ in range(held):
                it.broker.publish(poison, key="p")
            await it.until(lambda: it.flow.dispatcher.held == held)
            for number in range(100):
                it.broker.publish(b"%d" % number, key=f"{number % 3}")
            await it.until(lambda: it.flow.dispatcher.counters.delivered == 100)
            assert delivering(it).reason == "Retrying"
            while delivering(it).reason == "Retrying":
                it.broker.publish(poison, key="p")
                held += 1
                await it.until(lambda held=held: it.flow.dispatcher.held == held)
            assert delivering(it).reason == "LaneFull"
            assert held == 128, "memory stays bounded"


async def test_a_flow_of_which_every_attempt_fails_says_since_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"": 500}

    async def decide(call: Call) -> Answer:
        return answers.get(call.body.decode(), 200)

    monkeypatch.setattr("trigger_sources.dispatch.flow._FAILS_SAID_SECONDS", 0)
    async with scripted(decide) as function:
        async with bench(function.url, tmp_path, delivery={"backoffSeconds": 30}, grace_seconds=0) as it:
            assert it.flow.status().fails == ""
            it.broker.publish(b"", key="fails")
            await it.until(lambda: it.flow.dispatcher.counters.retried == 1)
            failed_at = it.flow.dispatcher.last_error_at
            assert failed_at is not None
            since = f"{datetime.fromtimestamp(failed_at, UTC):%Y-%m-%dT%H:%M}"
            assert it.flow.status().fails.startswith(f"every attempt has failed since {since}")
            assert it.flow.status().fails.endswith("nothing was delivered; last: status 500")
            assert delivering(it).reason == "Retrying"
            assert delivering(it).message.startswith(
                "1 event waits for another attempt; every attempt has failed since "
            )
            it.broker.publish(b"well", key="other")
            await it.until(lambda: it.flow.dispatcher.counters.delivered == 1)
            assert it.flow.status().fails == ""
            assert delivering(it).message == "1 event waits for another attempt; last: status 500"


def delivering(it: Bench) -> Condition:
    return next(found for found in it.flow.status().conditions if found.type == "Delivering")


async def test_each_start_of_a_handler_that_ends_its_process_counts_as_an_attempt(tmp_path: Path) -> None:
    """Also the first one, on a connection that an earlier call left open."""
    source = f"""
import os

def handler(event, context):
    if event["data"] == "end":
        with open({str(tmp_path / "begun")!r}, "a") as begun:
            begun.write("x")
        os._exit(7)
"""
    delivery = {**FAST, "attempts": 3}
    async with runtime(source) as function, bench(function.url, tmp_path, delivery=delivery) as it:
        it.broker.publish(b'"fine"', key="a")
        await it.until(it.settled(1))
        it.broker.publish(b'"end"', key="a")
        await it.until(it.settled(2), 60)
        assert it.broker.final() == {"1": "delivered", "2": "deadLettered"}
        (letter,) = await it.letters()
        assert (len(letter.attempts), (tmp_path / "begun").read_text()) == (3, "xxx")


async def test_an_event_that_ended_the_process_while_it_ran_alone_is_a_crash_loop(tmp_path: Path) -> None:
    """The mark of a process that did not survive the call: it is what a kill -9 leaves."""
    broker = Broker()
    broker.handed_out["1"] = 6
    async with scripted() as function, bench(function.url, tmp_path, broker) as it:
        await it.flow.context.state.put("crash/1", b"of another process")
        broker.publish(key="a")
        broker.publish(key="b")
        await it.until(it.settled(2))
        assert broker.final() == {"1": "deadLettered", "2": "delivered"}
        (letter,) = await it.letters()
        assert letter.reason == "CrashLoop"
        assert [call.id for call in function.calls] == ["event-2"]


async def test_an_event_that_was_handed_out_often_runs_alone_and_is_no_crash_loop_unless_the_process_ends(
    tmp_path: Path,
) -> None:
    """Failed attempts, a function that is down, and a flow that is stopped or cancelled leave no mark."""
    mended = False

    async def decide(call: Call) -> Answer:
        await asyncio.sleep(0.001)
        if call.id == "event-1":
            assert function.running == 1, "it runs alone"
        return 200 if mended else 503

    broker = Broker()
    broker.handed_out["1"] = 5
    async with scripted(decide) as function:
        async with bench(function.url, tmp_path, broker, grace_seconds=0) as it:
            broker.publish(key="a")
            broker.publish(key="b")
            await it.until(lambda: it.flow.dispatcher.counters.retried >= 2)
            it.runner.cancel()
            await asyncio.gather(it.runner, return_exceptions=True)
        for _ in range(3):  # rollouts while the function fails
            broker.redeliver()
            async with bench(function.url, tmp_path, broker, grace_seconds=0) as it:
                await it.until(lambda: it.flow.dispatcher.counters.retried >= 2)
        await function.stop()
        broker.redeliver()
        async with bench(function.url, tmp_path, broker, grace_seconds=0) as it:
            await it.until(lambda: it.gate.is_down)
        await function.start()
        mended = True
        broker.redeliver()
        async with bench(function.url, tmp_path, broker) as it:
            await it.until(it.settled(2))
            assert broker.final() == {"1": "delivered", "2": "delivered"}


async def test_a_source_that_fails_is_started_again_and_its_condition_says_why(tmp_path: Path) -> None:
    async with scripted() as function, bench(function.url, tmp_path) as it:
        it.broker.broken = "no route to broker"
        await it.until(lambda: it.flow.connected == (False, "Broken", "no route to broker"))
        it.broker.publish()
        await it.until(it.settled(1))
        assert it.flow.status().ready


class RudeTrigger(ListTrigger):
    """A source that never waits: it raises, or yields nothing, at once."""

    manners: str = "raises"

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        while self.manners == "yields nothing":
            yield []
        raise RuntimeError("no manners")


@pytest.mark.parametrize("manners", ["raises", "yields nothing"])
async def test_a_source_that_never_waits_starves_nobody_and_stops(
    manners: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trigger_sources.dispatch.flow._RESTART_FIRST_SECONDS", 0.0)
    monkeypatch.setattr("trigger_sources.dispatch.flow._RESTART_MAX_SECONDS", 0.0)
    async with scripted() as function, bench(function.url, tmp_path, kind=RudeTrigger, manners=manners) as it:
        ticks = 0
        async with asyncio.timeout(10):
            while ticks < 100 or (manners == "raises" and it.flow.dispatcher.counters.restarts < 1000):
                await asyncio.sleep(0)
                ticks += 1
            await it.flow.stop(0)
    assert sum("source failed" in record.message for record in caplog.records) <= 1, "one traceback for one problem"


async def test_a_waiting_caller_learns_at_once_that_the_function_is_down(tmp_path: Path) -> None:
    async with scripted() as function:
        await function.stop()
        async with bench(function.url, tmp_path, waits=True, delivery={"attempts": 1}, concurrency=4) as it:
            for number in range(30):
                it.broker.publish(key=f"{number}")
            await it.until(it.settled(30), 3)
            assert {outcomes[0].reason for outcomes in it.broker.outcomes.values()} == {"FunctionDown"}
            await function.start()
            await it.until(lambda: bool(it.broker.publish()) and "delivered" in it.broker.final().values())
        await function.stop()
        await function.start()


async def test_a_waiting_caller_gets_a_4xx_as_the_answer_and_no_dead_letter_is_written(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 422, {}, b"no"

    async with scripted(decide) as function, bench(function.url, tmp_path, waits=True, delivery={"attempts": 1}) as it:
        it.broker.publish()
        await it.until(it.settled(1))
        (outcome,) = it.broker.outcomes["1"]
        assert outcome.answer is not None
        assert (outcome.kind, outcome.answer.status, outcome.answer.body) == ("dropped", 422, b"no")
        assert await it.letters() == []


async def test_what_nobody_wants_as_a_dead_letter_is_dropped_when_a_person_skips_it(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 503

    slow = {"backoffSeconds": 100, "backoffMaxSeconds": 100}
    for spec in ({"waits": True, "delivery": slow}, {"delivery": {**slow, "onFailure": "drop"}}):
        async with scripted(decide) as function, bench(function.url, tmp_path, **spec) as it:
            it.broker.publish(key="k")
            await it.until(lambda: it.flow.dispatcher.states().get("retrying") == 1)
            assert it.flow.skip(None) == 1
            await it.until(it.settled(1))
            (outcome,) = it.broker.outcomes["1"]
            assert (outcome.kind, outcome.reason) == ("dropped", "Skipped")
            assert await it.letters() == []


async def test_without_a_store_a_trigger_that_may_need_one_says_what_to_do_and_takes_nothing(tmp_path: Path) -> None:
    for spec in ({}, {"delivery": {"onFailure": "drop"}, "filter": "data > 1"}):
        async with scripted() as function, bench(function.url, tmp_path, events=NoStore(), **spec) as it:
            it.broker.publish()
            await it.until(lambda: it.flow.connected[1] == "NoStore")
            message = it.flow.status().conditions[0].message
            assert "store.nats.servers" in message
            assert "spec.delivery.onFailure to park or drop" in message
            assert it.broker.reads == 0


async def test_without_a_store_a_trigger_that_parks_or_drops_delivers(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 422 if call.body == b'"bad"' else 200

    async with scripted(decide) as function:
        drop = {**FAST, "onFailure": "drop"}
        async with bench(function.url, tmp_path, events=NoStore(), delivery=drop, filter="true") as it:
            it.broker.publish(b'"bad"')
            await it.until(lambda: it.flow.connected[1] == "NoStore")
        async with bench(function.url, tmp_path, events=NoStore(), delivery=drop) as it:
            it.broker.publish(b'"bad"')
            it.broker.publish(b'"good"')
            await it.until(it.settled(2))
            assert it.broker.final() == {"1": "dropped", "2": "delivered"}
        park = {**FAST, "onFailure": "park"}
        async with bench(function.url, tmp_path, events=NoStore(), delivery=park, grace_seconds=0.2) as it:
            it.broker.publish(b'"bad"', key="a")
            it.broker.publish(b'"good"', key="b")
            await it.until(it.settled(1))
            await it.until(lambda: it.flow.dispatcher.states().get("parked") == 1)
            it.flow.skip("a")
            await it.until(lambda: "store.nats.servers" in it.flow.dispatcher.letters.unwritable)
            assert it.broker.final() == {"2": "delivered"}, "an event that cannot be kept is not acknowledged"


async def test_a_reply_is_confirmed_before_its_event_is_settled_and_the_function_is_not_called_again(
    tmp_path: Path,
) -> None:
    refused = 3

    async def invoice(call: Call) -> Answer:
        return 200, {"content-type": "application/json"}, b'{"invoice": 1}'

    async def receive(call: Call) -> Answer:
        nonlocal refused
        refused -= 1
        return 503 if refused >= 0 else 202

    async with scripted(invoice) as function, scripted(receive) as receiver:
        async with bench(function.url, tmp_path, reply={"url": receiver.url}) as it:
            it.broker.publish(b"{}", key="k")
            await it.until(it.settled(1))
            assert len(function.calls) == 1
            assert len(receiver.calls) == 4
            assert {call.id for call in receiver.calls} == {"event-1/f"}
            assert receiver.calls[-1].body == b'{"invoice": 1}'
            assert receiver.calls[-1].headers["ce-kubeirqhops"] == "1"


async def test_replies_that_cannot_be_published_are_said(tmp_path: Path) -> None:
    """Their events hold every place: nothing else is delivered meanwhile."""
    accepts = False

    async def invoice(call: Call) -> Answer:
        return 200, {}, b"1"

    async def receive(call: Call) -> Answer:
        return 202 if accepts else 503

    async with scripted(invoice) as function, scripted(receive) as receiver:
        async with bench(function.url, tmp_path, reply={"url": receiver.url}) as it:
            for number in range(2):
                it.broker.publish(key=f"{number}")
            await it.until(lambda: it.flow.status().conditions[0].reason == "RepliesUnpublished")
            assert not it.flow.status().ready
            assert "status 503" in it.flow.status().conditions[0].message
            accepts = True
            await it.until(it.settled(2))
            assert it.flow.status().ready
            accepts = False
            it.broker.publish()
            await it.until(lambda: not it.flow.status().ready)
            await it.flow.context.withdraw(lambda delivery: True, 0)
            assert it.flow.status().ready


async def test_an_empty_answer_publishes_nothing(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 204

    async with scripted(decide) as function, scripted() as receiver:
        async with bench(function.url, tmp_path, reply={"url": receiver.url}) as it:
            it.broker.publish()
            await it.until(it.settled(1))
            assert receiver.calls == []


async def test_a_reply_that_can_never_be_published_ends_as_a_dead_letter(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 200, {}, b"x"

    async def refuse(call: Call) -> Answer:
        return 413

    async with scripted(decide) as function, scripted(refuse) as receiver:
        async with bench(function.url, tmp_path, reply={"url": receiver.url}) as it:
            it.broker.publish()
            await it.until(it.settled(1))
            (letter,) = await it.letters()
            assert letter.reason == "ReplyRefused"


async def test_a_suspended_trigger_takes_nothing_and_says_so(tmp_path: Path) -> None:
    async with scripted() as function, bench(function.url, tmp_path, suspend=True) as it:
        it.broker.publish()
        await asyncio.sleep(0.1)
        assert it.broker.reads == 0
        assert it.flow.status().conditions[0].reason == "Suspended"


async def test_received_is_settled_plus_held_at_every_moment(tmp_path: Path) -> None:
    dice = random.Random(3)

    async def decide(call: Call) -> Answer:
        await asyncio.sleep(dice.random() * 0.003)
        return dice.choice([200, 200, 200, 500, 404])

    spec = {"delivery": {**FAST, "attempts": 2, "holdAfter": None}, "filter": "data > 10"}
    async with scripted(decide) as function, bench(function.url, tmp_path, **spec) as it:
        for number in range(300):
            it.broker.publish(b"%d" % number, key=f"{number % 30}")
        while len(it.broker.final()) < 300:
            c = it.flow.dispatcher.counters
            settled = c.delivered + c.filtered + c.deadLettered + c.dropped + c.returned + c.withdrawn
            assert c.received == settled + it.flow.dispatcher.held
            await asyncio.sleep(0.001)


class WallClock:
    """Stands for the module `time`, with a wall clock that somebody sets."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def time(self) -> float:
        return time.time() + self.ahead_seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock()
    monkeypatch.setattr("trigger_sources.dispatch.dispatcher.time", clock)
    return clock


async def test_a_clock_that_is_set_ahead_makes_no_waiting_event_too_old(tmp_path: Path, wall_clock: WallClock) -> None:
    async def decide(call: Call) -> Answer:
        if len(function.calls) == 2:
            wall_clock.ahead_seconds = 3_600
        return 503 if len(function.calls) < 4 else 200

    async with (
        scripted(decide) as function,
        bench(function.url, tmp_path, delivery={**FAST, "maxAgeSeconds": 60}) as it,
    ):
        it.broker.publish(b"1", key="k")
        await it.until(it.settled(1))
        assert list(it.broker.final().values()) == ["delivered"]


async def test_a_clock_that_is_set_back_keeps_no_event_longer(tmp_path: Path, wall_clock: WallClock) -> None:
    async def decide(call: Call) -> Answer:
        if len(function.calls) == 2:
            wall_clock.ahead_seconds = -3_600
        return 503

    async with (
        scripted(decide) as function,
        bench(function.url, tmp_path, delivery={**FAST, "maxAgeSeconds": 0.3}) as it,
    ):
        it.broker.publish(b"1", key="k")
        await it.until(lambda: len(function.calls) > 2)
        assert all(lane.since < time.time() - 3_500 for lane in it.flow.lanes_view())  # as the clock is now
        await it.until(it.settled(1))
        assert [letter.reason for letter in await it.letters()] == ["TooOld"]


class FiredTrigger(ListTrigger):
    def event_now(self, context: Context) -> Event:
        return Event("now", "/s", "t", b"")


@pytest.mark.parametrize("end", ["withdraw", "stop", "hurry"])
async def test_who_fires_a_trigger_hears_that_the_flow_parts_with_the_event(tmp_path: Path, end: str) -> None:
    async def decide(call: Call) -> Answer:
        await asyncio.sleep(3600)
        return 200

    async with scripted(decide) as function, bench(function.url, tmp_path, kind=FiredTrigger) as it:
        fired = asyncio.create_task(it.flow.fire())
        await it.until(lambda: function.running == 1)
        if end == "withdraw":
            await it.flow.context.withdraw(lambda delivery: True, 0)
        elif end == "stop":
            await it.flow.stop(0)
        else:
            it.runner.cancel()
        async with asyncio.timeout(10):
            outcome = await fired
        assert outcome is not None
        assert (outcome.kind, outcome.reason) == ("returned", "Stopping")
        if end != "withdraw":
            assert await it.flow.fire() == outcome, "nothing is taken any more"


async def test_who_fires_a_trigger_has_the_outcome(tmp_path: Path) -> None:
    async with scripted() as function, bench(function.url, tmp_path, kind=FiredTrigger) as it:
        outcome = await it.flow.fire()
        assert outcome is not None
        assert outcome.kind == "delivered"


async def test_the_latency_of_a_lost_call_is_without_the_question_why(tmp_path: Path) -> None:
    asked: list[float] = []

    async def why_lost(called_at: float) -> str:
        asked.append(called_at)
        await asyncio.sleep(1)
        return "the worker process ended with exit code 7"

    async def decide(call: Call) -> Answer:
        if len(function.calls) == 1:
            for connection in list(function._connections):
                connection.transport.abort()
        return 200

    gate = Gate("f", "http://127.0.0.1:1/")
    gate.why_lost = why_lost
    async with scripted(decide) as function:
        gate.move(function.url)
        async with bench(function.url, tmp_path, gate=gate) as it:
            it.broker.publish()
            await it.until(it.settled(1))
            counters = it.flow.dispatcher.counters
            assert len(asked) == 1
            assert (counters.attempts, counters.retried, counters.delivered) == (2, 1, 1)
            assert counters.latency_seconds < 1
            assert "exit code 7" in it.flow.dispatcher.last_error
