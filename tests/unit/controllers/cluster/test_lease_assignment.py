"""Slots shared out over replicas: never two at a time have one, whatever fails, and when nothing fails all are had."""

import os
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controllers.cluster.lease_assignment import Lease, LeaseAssignment, LeaseWrite
from controllers.cluster.leases import slot_of

DURATION, RENEW = 15.0, 5.0
LONG_WALKS = int(os.environ.get("KUBEIRQ_LONG_WALKS", "20"))


class Server:
    """Leases and their versions: of two who replace one version, the first wins."""

    def __init__(self) -> None:
        self.leases: dict[int, Lease] = {}
        self.version = 0
        self.writes: Counter[str] = Counter()

    def take(self, write: LeaseWrite) -> str | None:
        """The new version, or None for a conflict."""
        present = self.leases.get(write.slot)
        if write.lease.version != (present.version if present else ""):
            return None
        self.version += 1
        self.leases[write.slot] = replace(write.lease, version=str(self.version))
        self.writes[write.purpose] += 1
        return str(self.version)


class Replica:
    """One process: its own clock, its own chance, and at most one round under way."""

    def __init__(self, identity: str, count: int, offset: float, seed: int) -> None:
        self.identity, self.offset = identity, offset
        self.assignment = LeaseAssignment(identity, count, DURATION, RENEW)
        self.chance = random.Random(seed)
        self.sent: list[tuple[LeaseWrite, float]] = []
        self.taken: list[tuple[LeaseWrite, float, str]] = []  # by the server, as we do not know yet
        self.asked_at: float | None = None  # while a look is under way
        self.seen: dict[int, Lease] | None = None  # the server's answer to it
        self.is_planned = True  # the round is over
        self.stamps = 0

    def begin(self, time: float) -> None:
        """Asks what is there, and renews meanwhile."""
        self.asked_at, self.seen = time + self.offset, None
        self._send(time, self.assignment.renewals(time + self.offset, self._stamp(time)))

    def look(self, server: Server) -> None:
        """The server says what it has; the answer is under way."""
        self.seen = dict(server.leases)

    def see(self, time: float) -> None:
        """The answer is there, or is given up."""
        if self.seen is not None and self.asked_at is not None:
            self.assignment.observe(self.seen, self.asked_at, time + self.offset)
        self.asked_at = None

    def plan(self, time: float, first_term: int = 0) -> None:
        self._send(time, self.assignment.plan(time + self.offset, self._stamp(time), first_term, self.chance))

    def _send(self, time: float, writes: list[LeaseWrite]) -> None:
        self.sent = [(write, time + self.offset) for write in writes]

    def _stamp(self, time: float) -> str:
        self.stamps += 1
        return f"{time + self.offset} {self.stamps}"

    @property
    def is_waiting(self) -> bool:
        return bool(self.sent or self.taken or self.asked_at is not None)

    def arrive(self, server: Server, index: int, *, heard: bool = True) -> None:
        """The server takes one of the writes; `heard`: and we shall hear of it."""
        write, sent_at = self.sent.pop(index)
        version = server.take(write)
        if heard and version is not None:
            self.taken.append((write, sent_at, version))

    def hear(self, time: float, index: int) -> None:
        write, sent_at, version = self.taken.pop(index)
        self.assignment.written(write, sent_at, time + self.offset, version)

    def write(self, server: Server, time: float) -> None:
        """All that was planned, as it goes when nothing fails."""
        while self.sent:
            self.arrive(server, 0)
        while self.taken:
            self.hear(time, 0)

    def round(self, server: Server, time: float) -> None:
        """As it goes when nothing fails."""
        self.begin(time)
        self.look(server)
        self.see(time)
        self.write(server, time)
        self.plan(time)
        self.write(server, time)
        for slot in list(self.assignment.draining):
            self.assignment.drained(slot)


def settle(server: Server, replicas: list[Replica], time: float, seconds: float = 120) -> float:
    """Nothing fails any more, for so long. Returns the time after it."""
    end = time + seconds
    while time < end:
        for replica in replicas:
            replica.round(server, time)
            time += 0.3
        time += 0.5
    return time


class World:
    """Processes that pause, die, start again with their name, and whose writes are lost, late, or taken unheard."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.time = 1_000.0
        self.server = Server()
        self.replicas: dict[int, Replica] = {}
        self.late: list[LeaseWrite] = []
        self.terms: Counter[int] = Counter()
        self.holder_of_term: dict[tuple[int, int], Replica] = {}

    def start(self, number: int, offset: float, seed: int) -> None:
        """A new process; one of this name that is there dies, and what it sent may come late."""
        if (before := self.replicas.get(number)) is not None:
            self.late += [write for write, _ in before.sent]
        self.replicas[number] = Replica(f"replica-{number}", self.count, offset, seed)

    def go_on(self, number: int, works: bool) -> None:
        """The next step of a round; `works`: the look is answered."""
        replica = self.replicas.get(number)
        if replica is None:
            return
        if replica.asked_at is not None and replica.seen is None and works:
            replica.look(self.server)
        elif replica.asked_at is not None:
            replica.see(self.time)
        elif replica.is_waiting:
            return
        elif replica.is_planned:
            replica.begin(self.time)
            replica.is_planned = False
        else:
            replica.plan(self.time, int(self.time))
            replica.is_planned = True

    def whole_round(self, number: int) -> None:
        replica = self.replicas.get(number)
        if replica is not None and not replica.is_waiting:
            replica.round(self.server, self.time)

    def write(self, number: int, pick: int, fate: str) -> None:
        replica = self.replicas.get(number)
        if replica is None or not replica.sent:
            return
        index = pick % len(replica.sent)
        if fate in ("heard", "unheard"):
            replica.arrive(self.server, index, heard=fate == "heard")
        else:
            write, _ = replica.sent.pop(index)
            self.late += [write] * (fate == "late")

    def hear(self, number: int, pick: int) -> None:
        replica = self.replicas.get(number)
        if replica is not None and replica.taken:
            replica.hear(self.time, pick % len(replica.taken))

    def arrive_late(self, pick: int) -> None:
        if self.late:
            self.server.take(self.late.pop(pick % len(self.late)))

    def end(self, number: int, slot: int) -> None:
        replica = self.replicas.get(number)
        if replica is not None and slot in replica.assignment.draining:
            replica.assignment.drained(slot)

    def stop(self, number: int) -> None:
        if (replica := self.replicas.get(number)) is not None:
            replica.assignment.stop()

    def check(self) -> None:
        """No two have a slot at the same moment, and every holding has a term of its own, higher than those before."""
        for slot in range(self.count):
            terms = {
                replica: term
                for replica in self.replicas.values()
                if (term := replica.assignment.term(slot, self.time + replica.offset)) is not None
            }
            assert len(terms) <= 1, (slot, terms)
            for replica, term in terms.items():
                assert term >= self.terms[slot], "terms only grow"
                self.terms[slot] = term
                assert self.holder_of_term.setdefault((slot, term), replica) is replica, "one holder a term"
            for replica in self.replicas.values():
                is_held = slot in replica.assignment.held(self.time + replica.offset)
                assert not is_held or (replica in terms and slot not in replica.assignment.draining)

    def calm(self) -> None:
        """When failures stop, every slot is held by someone live, shares differ by at most one, and all is at rest."""
        for replica in self.replicas.values():
            replica.sent.clear()
            replica.taken.clear()
            replica.asked_at = None
        live = [replica for replica in self.replicas.values() if not replica.assignment.is_stopping]
        leaving = [replica for replica in self.replicas.values() if replica.assignment.is_stopping]
        self.time = settle(self.server, live + leaving, self.time)
        assert all(replica.assignment.is_stopped for replica in leaving)
        if live:
            assert_shared(live, self.time, self.count)
            before = self.server.writes.copy()
            self.time = settle(self.server, live, self.time, 60)
            written = self.server.writes - before
            assert set(written) == {"renew"}, "at rest nothing else is written"
            assert written["renew"] <= self.count * (60 / RENEW + 1)


NUMBERS, PICKS = st.integers(0, 2), st.integers(0, 9)
OFFSETS = [0.0, 1e6, -500.0]
SECONDS = [0.01, 0.5, 1, 3, 5, 5.1, 9.9, 10, 10.1, 14.9, 15, 15.1, 60]
FATES = ["heard", "unheard", "late", "lost"]


class AnyTrouble(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(2)

    @rule(number=NUMBERS, offset=st.sampled_from(OFFSETS), seed=st.integers(0, 99))
    def start(self, number: int, offset: float, seed: int) -> None:
        self.world.start(number, offset, seed)

    @rule(seconds=st.sampled_from(SECONDS))
    def wait(self, seconds: float) -> None:
        self.world.time += seconds

    @rule(number=NUMBERS, works=st.booleans())
    def go_on(self, number: int, works: bool) -> None:
        self.world.go_on(number, works)

    @rule(number=NUMBERS)
    def whole_round(self, number: int) -> None:
        self.world.whole_round(number)

    @rule(number=NUMBERS, pick=PICKS, fate=st.sampled_from(FATES))
    def write(self, number: int, pick: int, fate: str) -> None:
        self.world.write(number, pick, fate)

    @rule(number=NUMBERS, pick=PICKS)
    def hear(self, number: int, pick: int) -> None:
        self.world.hear(number, pick)

    @rule(pick=PICKS)
    def arrive_late(self, pick: int) -> None:
        self.world.arrive_late(pick)

    @rule(number=NUMBERS, slot=st.integers(0, 1))
    def end(self, number: int, slot: int) -> None:
        self.world.end(number, slot)

    @rule(number=NUMBERS)
    def stop(self, number: int) -> None:
        self.world.stop(number)

    @invariant()
    def nobody_shares_a_slot(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.calm()


TestAnyTrouble = AnyTrouble.TestCase
TestAnyTrouble.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize("seed", range(LONG_WALKS))
def test_a_long_life_in_trouble_shares_no_slot_and_ends_at_rest(seed: int) -> None:
    chance = random.Random(seed)
    world = World(chance.choice((1, 2, 5)))
    offsets = [chance.choice(OFFSETS) for _ in range(3)]
    for number in range(3):
        world.start(number, offsets[number], seed)
    for step in range(1_500):
        number, pick = chance.randrange(3), chance.randrange(10)
        match chance.choices(("wait", "go on", "round", "write", "hear", "late", "end", "start", "stop"),
                             (20, 40, 12, 40, 40, 5, 8, 0.6, 0.6))[0]:  # fmt: skip
            case "wait":
                world.time += chance.choice(SECONDS) if chance.random() < 0.3 else chance.random()
            case "go on":
                world.go_on(number, chance.random() < 0.9)
            case "round":
                world.whole_round(number)
            case "write":
                world.write(number, pick, chance.choices(FATES, (12, 1, 1, 1))[0])
            case "hear":
                world.hear(number, pick)
            case "late":
                world.arrive_late(pick)
            case "end":
                world.end(number, chance.randrange(world.count))
            case "start":
                world.start(number, offsets[number], step)
            case "stop":
                world.stop(number)
        world.check()
    world.calm()


def assert_shared(live: list[Replica], time: float, count: int) -> None:
    held = [replica.assignment.held(time + replica.offset) for replica in live]
    assert sorted(slot for slots in held for slot in slots) == list(range(count)), held
    sizes = [len(slots) for slots in held]
    assert max(sizes) - min(sizes) <= 1, sizes


def test_replicas_that_start_together_share_about_equally_and_soon() -> None:
    for seed in range(50):
        for count, number in ((8, 1), (8, 2), (8, 3), (9, 4), (2, 5), (1, 2)):
            server = Server()
            replicas = [Replica(f"replica-{name}", count, name * 100.0, seed * 10 + name) for name in range(number)]
            time = settle(server, replicas, 0, 10)
            assert_shared(replicas, time, count)
            assert server.writes["release"] <= number - 1, "hardly anything is moved"


def test_a_newcomer_gets_its_share_and_nothing_more_is_moved() -> None:
    for seed in range(50):
        server = Server()
        old = [Replica(f"replica-{name}", 8, name * 100.0, seed * 10 + name) for name in range(2)]
        time = settle(server, old, 0, 30)
        before = server.writes.copy()
        time = settle(server, [*old, new := Replica("new", 8, 7.0, seed)], time, 10)
        assert_shared([*old, new], time, 8)
        moved = server.writes - before
        assert moved["release"] == moved["request"] == moved["acquire"] == 2


def test_newcomers_who_ask_the_same_ones_at_the_same_time_get_no_more_than_their_share() -> None:
    for seed in range(50):
        server = Server()
        old = Replica("old", 8, 0.0, seed)
        time = settle(server, [old], 0, 30)
        new = [Replica(f"new-{number}", 8, 0.0, seed * 10 + number) for number in range(2)]
        for replica in new:
            replica.assignment.observe(server.leases, time, time)
            replica.plan(time)
        for replica in new:
            replica.write(server, time)
        time = settle(server, [old, *new], time, 20)
        assert_shared([old, *new], time, 8)
        assert server.writes["release"] <= 6


def test_what_is_answered_after_the_stop_is_given_back() -> None:
    server = Server()
    one = Replica("one", 1, 0.0, 1)
    one.assignment.observe({}, 0, 0)
    one.plan(0)  # acquires
    one.assignment.stop()
    one.write(server, 0)
    assert not one.assignment.held(0)
    one.round(server, 0)
    assert one.assignment.is_stopped
    assert server.leases[0].holder == ""


def test_a_renewal_that_is_answered_after_the_end_of_the_work_does_not_bring_it_back() -> None:
    server = Server()
    one = Replica("one", 1, 0.0, 1)
    time = settle(server, [one], 0, 10)
    one.assignment.observe(server.leases, time, time)
    one.plan(time := time + RENEW)
    assert [write.purpose for write, _ in one.sent] == ["renew"]
    one.assignment.stop()
    one.assignment.drained(0)
    one.write(server, time)
    assert one.assignment.term(0, time) is None
    one.round(server, time)
    assert one.assignment.is_stopped


def test_what_a_stopped_replica_had_is_taken_at_the_next_look() -> None:
    server = Server()
    one, other = (Replica(name, 8, 0.0, 1) for name in ("one", "other"))
    time = settle(server, [one, other], 0, 30)
    one.assignment.stop()
    one.round(server, time)
    one.round(server, time)
    assert one.assignment.is_stopped
    other.round(server, time)
    assert other.assignment.held(time) == frozenset(range(8))


def test_a_slot_is_kept_and_is_not_held_while_it_is_let_go_for_another() -> None:
    server = Server()
    one = Replica("one", 2, 0.0, 1)
    time = settle(server, [one], 0, 10)
    other = Replica("other", 2, 0.0, 1)
    other.round(server, time)  # requests
    for _ in range(30):
        time += 1
        one.assignment.observe(server.leases, time, time)
        one.plan(time)
        one.write(server, time)
        other.round(server, time)
        (slot,) = one.assignment.draining
        assert one.assignment.term(slot, time) is not None, "it is renewed as long as something goes on there"
        assert one.assignment.held(time) == {0, 1} - {slot}
        assert not other.assignment.held(time)
    one.assignment.drained(slot)
    assert one.assignment.term(slot, time) is None
    one.round(server, time)
    other.round(server, time)
    assert other.assignment.held(time) == {slot}


def test_who_starts_again_with_its_name_has_what_it_had_at_once_under_another_term() -> None:
    server = Server()
    time = settle(server, [one := Replica("one", 4, 0.0, 1)], 0, 10)
    terms = [one.assignment.term(slot, time) for slot in range(4)]
    again = Replica("one", 4, 50.0, 2)
    again.round(server, time)
    assert again.assignment.held(time + 50) == frozenset(range(4))
    next_terms = [term + 1 for term in terms if term is not None]
    assert [again.assignment.term(slot, time + 50) for slot in range(4)] == next_terms


def test_a_wish_of_someone_who_died_costs_one_move_at_most() -> None:
    server = Server()
    one = Replica("one", 4, 0.0, 1)
    time = settle(server, [one], 0, 10)
    dead = Replica("dead", 4, 0.0, 1)
    dead.round(server, time)
    time = settle(server, [one], time, 60)
    assert one.assignment.held(time) == frozenset(range(4))
    assert server.writes["release"] <= 2


def test_a_lease_that_was_removed_by_hand_is_not_taken_while_its_holder_may_not_know() -> None:
    server = Server()
    one, other = (Replica(name, 1, 0.0, 1) for name in ("one", "other"))
    time = settle(server, [one, other], 0, 10)
    del server.leases[0]
    other.round(server, time)
    assert one.assignment.held(time)
    assert not other.assignment.held(time)
    time = settle(server, [other], time, 30)
    assert other.assignment.held(time)


def test_the_slot_of_a_uid_is_the_same_in_every_process() -> None:
    assert [slot_of(uid, 8) for uid in ("a", "b", "c2ffb9a4-4a7b-4b6c-9c1a-3f0f1a2b3c4d")] == [3, 1, 2]
    spread = Counter(slot_of(f"uid-{number}", 8) for number in range(8_000))
    assert max(spread.values()) < 1.2 * min(spread.values())
