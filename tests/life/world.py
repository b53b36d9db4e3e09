"""A small world around the table of an event's life: a source, a function, a store, and a dispatcher that obeys it.

A world is an immutable value. `moves` lists the moves that are possible in it, and `after` returns the world after a
move. Both are pure, so that a search can visit every interleaving. After each row the world checks the properties that
must hold, and raises Violation.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from trigger_sources.dispatch.life import LIFE, Input, Resource, State, Table, step

Move = tuple[str, int]  # the name of the move, and its event or key; -1 for neither

BITS = {resource: 1 << index for index, resource in enumerate(Resource)}
HOLDS = {state: sum(BITS[resource] for resource in state.holds) for state in State}
ROOM, LANE, QUEUE, PLACE, WORK, TIMER, MEMORY = (BITS[resource] for resource in Resource)
KIND_OF_WORK = {
    State.CALLING: "call",
    State.REPLYING: "publish",
    State.BURYING: "write",
    State.SETTLING: "settle",
    State.RETURNING: "return",
    State.RETELLING: "settle",
}


class Violation(AssertionError):
    """Something that must always hold does not."""


class Held(NamedTuple):
    """One event: what the dispatcher has of it, then the truth outside that no crash changes."""

    state: State = State.NEW
    holds: int = 0
    work: str = ""
    tries: int = 0
    outcome: str = ""  # delivered, deadLettered or dropped, once it is decided
    hand: int = 0  # the source's newest hand-out, modulo 3
    known: int = 0  # the newest hand-out that the dispatcher knows
    telling: int = 0  # the hand-out that is being settled
    taken: bool = False  # the source has handed it out to this process
    delivered: bool = False  # the function has answered 2xx
    published: bool = False
    buried: bool = False  # a dead letter is durable
    dropped: bool = False
    told: bool = False  # the source has taken an acknowledgement
    marked: bool = False  # the durable mark of a suspect event that runs


class World(NamedTuple):
    events: tuple[Held, ...]
    ready: tuple[int, ...] = ()  # first events of their lanes that wait for a place, and events without a lane
    lanes: tuple[tuple[int, ...], ...] = ()  # by key: the events in it, in order
    down: bool = False  # the gate is closed
    probe_due: bool = False
    probing: int = -1
    cut: bool = False  # the source's connection is gone: what is settled at once fails
    stopping: bool = False
    balance: int = 0  # received - settled - returned - withdrawn
    faults: int = 0  # how many more things may go wrong


FAULTS = frozenset(
    {"fail", "refuse", "unreachable", "fault", "again", "revoke", "cut", "unsettle", "crash", "stop", "person", "skip"}
)


@dataclass(frozen=True)
class Rules:
    """The size of a world, and what may go wrong in it: `faults` things of these kinds, in any order."""

    keys: tuple[int, ...] = (0, 1, 0, 1, 0, 1)  # by event; -1: ordered with nothing
    places: int = 2
    attempts: int = 2
    on_failure: str = "deadLetter"  # deadLetter, park, drop, or hold: the policy while everything fails
    at_once: bool = False  # settling needs no waiting
    reply: bool = False
    suspects: frozenset[int] = frozenset()
    filtered: frozenset[int] = frozenset()  # the filter does not let them through
    unreadable: frozenset[int] = frozenset()
    faults: int = 1
    kinds: frozenset[str] = FAULTS
    table: Table = field(default_factory=lambda: LIFE)

    def start(self) -> World:
        lanes = tuple(() for _ in range(max(self.keys) + 1))
        return World(tuple(Held() for _ in self.keys), lanes=lanes, faults=self.faults)


class Run:
    """One move in the making. Mutable; `after` makes it and throws it away."""

    def __init__(self, rules: Rules, world: World, log: list[tuple[object, ...]] | None = None) -> None:
        self.rows: list[tuple[State, Input]] = []  # of the table, as they were used
        self.rules = rules
        self.events = list(world.events)
        self.ready = list(world.ready)
        self.lanes = [list(lane) for lane in world.lanes]
        self.down, self.probe_due, self.probing = world.down, world.probe_due, world.probing
        self.cut, self.stopping, self.balance = world.cut, world.stopping, world.balance
        self.faults = world.faults
        self.log = log  # of what the outside sees

    def world(self) -> World:
        return World(
            tuple(self.events), tuple(self.ready), tuple(map(tuple, self.lanes)), self.down, self.probe_due,
            self.probing, self.cut, self.stopping, self.balance, self.faults,
        )  # fmt: skip

    # --- the table at work

    def apply(self, event: int, given: Input) -> None:
        held = self.events[event]
        state, actions = step(held.state, given, self.rules.table)
        self.rows.append((held.state, given))
        self.events[event] = held._replace(state=state)
        for action in actions:
            getattr(self, action.name.lower())(event)
        self.check(event, given)

    def check(self, event: int, given: Input) -> None:
        held = self.events[event]
        state = held.state
        if held.holds != HOLDS[state]:
            raise Violation(f"{given.name}: {state.name} holds {held.holds:b}, not {HOLDS[state]:b}")
        if held.work != KIND_OF_WORK.get(state, ""):
            raise Violation(f"{given.name}: {state.name} while {held.work!r} is under way")
        if state is State.NEW:
            raise Violation(f"{given.name}: nothing becomes new")
        if given is Input.RELEASED and held.tries:
            raise Violation("a released event has all its attempts again")
        if given is Input.HELD_BACK and held.tries:
            raise Violation("an event that is not to blame has all its attempts again")
        if sum(1 for found in self.events if found.holds & PLACE) > self.rules.places:
            raise Violation("more places are taken than there are")
        if self.balance != sum(1 for found in self.events if found.holds & ROOM):
            raise Violation("received = settled + returned + withdrawn + held does not hold")

    def hold(self, event: int, bits: int) -> None:
        held = self.events[event]
        if held.holds & bits:
            raise Violation(f"event {event} takes {bits:b} twice")
        self.events[event] = held._replace(holds=held.holds | bits)

    def give(self, event: int, bits: int) -> None:
        held = self.events[event]
        if held.holds & bits != bits:
            raise Violation(f"event {event} gives {bits:b} back without having it")
        self.events[event] = held._replace(holds=held.holds & ~bits)

    def say(self, *words: object) -> None:
        if self.log is not None:
            self.log.append(words)

    # --- actions, by their names in the table

    def enter(self, event: int) -> None:
        self.hold(event, ROOM | LANE | QUEUE)
        self.balance += 1
        key = self.rules.keys[event]
        if key < 0:
            self.ready.append(event)
            return
        self.lanes[key].append(event)
        if len(self.lanes[key]) == 1:
            self.ready.append(event)

    def unqueue(self, event: int) -> None:
        self.give(event, QUEUE)
        if event in self.ready:
            self.ready.remove(event)

    def call(self, event: int) -> None:
        self.hold(event, PLACE)
        self.begin(event, "call")
        for other in self.earlier(event):
            found = self.events[other]
            if not (found.delivered or found.buried or found.dropped):
                raise Violation(f"event {event} is called before event {other} of its key is done")
        self.say("call", event, self.events[event].tries + 1)

    def call_alone(self, event: int) -> None:
        if any(found.holds & PLACE for found in self.events):
            raise Violation("a suspect event runs beside others")
        self.hold(event, PLACE)
        self.begin(event, "call")
        if not self.events[event].marked:
            self.say("call", event, self.events[event].tries + 1)

    def publish(self, event: int) -> None:
        # The call has ended by itself; its place stays taken
        self.begin(event, "publish")
        self.say("publish", event)

    def write(self, event: int) -> None:
        self.begin(event, "write")
        self.say("write", event)

    def wait(self, event: int) -> None:
        self.hold(event, TIMER)

    def unwait(self, event: int) -> None:
        self.give(event, TIMER)

    def renew(self, event: int) -> None:
        self.events[event] = self.events[event]._replace(tries=0)

    def requeue_first(self, event: int) -> None:
        self.hold(event, QUEUE)
        self.ready.insert(0, event)

    def requeue_last(self, event: int) -> None:
        self.hold(event, QUEUE)
        self.ready.append(event)

    def free(self, event: int) -> None:
        self.give(event, PLACE)

    def hang_up(self, event: int) -> None:
        if self.events[event].work != "call":
            raise Violation("there is no call to hang up")
        if not self.events[event].marked:  # else it waits for the mark of an earlier process to be read, which stays
            self.say("abort", event)
            self.call_ended(event)
        self.probe_ended(event)
        self.end(event)

    def abort(self, event: int) -> None:
        if self.events[event].work in ("", "call"):
            raise Violation("there is no work to abort")
        self.end(event)

    def settle(self, event: int) -> None:
        held = self.events[event]
        if held.told:
            raise Violation(f"event {event} is settled after it was settled")
        durable = {
            "delivered": held.delivered and (held.published or not self.rules.reply),
            "deadLettered": held.buried,
        }
        if not durable.get(held.outcome, held.outcome == "dropped"):
            raise Violation(f"event {event} is settled as {held.outcome!r} before that is durable")
        if held.outcome == "dropped":
            self.events[event] = held._replace(dropped=True)
        self.begin(event, "settle")
        self.events[event] = self.events[event]._replace(telling=held.known)
        self.say("settle", event, held.outcome)
        if self.rules.at_once:
            self.tell(event, not self.cut)

    def return_(self, event: int) -> None:
        self.begin(event, "return")
        self.events[event] = self.events[event]._replace(telling=self.events[event].known)
        self.say("settle", event, "returned")

    def replace(self, event: int) -> None:
        held = self.events[event]
        self.events[event] = held._replace(known=held.hand)

    def count(self, event: int) -> None:
        self.balance -= 1

    count_withdrawn = count

    def leave(self, event: int) -> None:
        self.give(event, ROOM | LANE)
        key = self.rules.keys[event]
        if key < 0:
            return
        lane = self.lanes[key]
        first = lane[0] == event
        lane.remove(event)
        if first and lane:
            self.ready.append(lane[0])

    def remember(self, event: int) -> None:
        self.hold(event, MEMORY)

    def forget(self, event: int) -> None:
        self.give(event, MEMORY)

    # --- work

    def begin(self, event: int, kind: str) -> None:
        self.hold(event, WORK)
        self.events[event] = self.events[event]._replace(work=kind)

    def end(self, event: int) -> None:
        self.give(event, WORK)
        self.events[event] = self.events[event]._replace(work="")

    def tell(self, event: int, works: bool) -> None:
        """The source takes the acknowledgement, or its connection is gone."""
        held = self.events[event]
        if works and held.telling != held.hand:
            raise Violation("a hand-out that was replaced is settled")
        final = held.work == "settle"
        self.end(event)
        if works and final:
            self.events[event] = self.events[event]._replace(told=True)
        self.apply(event, Input.SETTLED if works else Input.SETTLE_FAILED)

    def earlier(self, event: int) -> Iterator[int]:
        key = self.rules.keys[event]
        return (other for other in range(event) if key >= 0 and self.rules.keys[other] == key)

    def call_ended(self, event: int) -> None:
        self.events[event] = self.events[event]._replace(marked=False)

    def probe_ended(self, event: int) -> None:
        """The event's call says nothing of the function. If it was the probe, another event may be it at once."""
        if self.probing == event:
            self.probing, self.probe_due = -1, True

    # --- the dispatcher's decisions

    def start(self) -> None:
        """Starts as many events as may start, as the dispatcher does after each input."""
        while self.ready and not self.stopping:
            event = self.ready[0]
            held = self.events[event]
            taken = sum(1 for found in self.events if found.holds & PLACE)
            alone = any(
                found.state is State.CALLING and e in self.rules.suspects for e, found in enumerate(self.events)
            )
            if taken >= self.rules.places or alone or (event in self.rules.suspects and taken):
                return
            if event in self.rules.unreadable:
                self.condemn(event)
                continue
            if event in self.rules.filtered:
                self.events[event] = held._replace(outcome="dropped")
                self.apply(event, Input.DECIDED)
                continue
            if self.down:
                if not self.probe_due or self.probing >= 0:
                    return
                self.probe_due, self.probing = False, event
            if event in self.rules.suspects:
                self.apply(event, Input.STARTED_ALONE)
            else:
                self.apply(event, Input.STARTED)

    def condemn(self, event: int) -> None:
        self.events[event] = self.events[event]._replace(outcome="deadLettered")
        self.apply(event, Input.CONDEMNED)

    def give_up(self, event: int) -> None:
        policy = self.rules.on_failure
        if policy == "drop":
            self.events[event] = self.events[event]._replace(outcome="dropped")
            self.apply(event, Input.DECIDED)
        elif policy == "park":
            self.apply(event, Input.EXHAUSTED)
        elif policy == "hold":
            self.apply(event, Input.HELD_BACK)
        else:
            self.condemn(event)

    def reached(self, event: int) -> None:
        """A call ended and had reached the function: the function is there."""
        self.call_ended(event)
        self.end(event)
        self.down, self.probe_due = False, False
        self.probing = -1
        held = self.events[event]
        self.events[event] = held._replace(tries=held.tries + 1)

    # --- moves

    def move(self, name: str, at: int) -> None:
        # A person always comes to a parked lane, and a process that has stopped always starts again
        comes = name in ("person", "skip") and self.events[at].state is State.PARKED
        free = comes or (name == "crash" and self.stopping)
        if name in FAULTS and not free:
            self.faults -= 1
        getattr(self, f"on_{name}")(at)
        self.start()

    def on_take(self, event: int) -> None:
        held = self.events[event]
        fresh = Held(
            taken=True, delivered=held.delivered, published=held.published, buried=held.buried, dropped=held.dropped,
            marked=held.marked, hand=held.hand, known=held.hand,
        )  # fmt: skip
        self.events[event] = fresh
        self.apply(event, Input.TAKEN)

    def on_deliver(self, event: int) -> None:
        self.reached(event)
        self.events[event] = self.events[event]._replace(delivered=True)
        if self.rules.reply:
            self.apply(event, Input.ANSWERED)
        else:
            self.events[event] = self.events[event]._replace(outcome="delivered")
            self.apply(event, Input.DECIDED)

    def on_fail(self, event: int) -> None:
        self.reached(event)
        if self.events[event].tries < self.rules.attempts:
            self.apply(event, Input.FAILED)
        else:
            self.give_up(event)

    def on_loop(self, event: int) -> None:
        """The mark of an earlier process is found: the event ended it."""
        self.end(event)
        self.events[event] = self.events[event]._replace(marked=False)
        self.probe_ended(event)
        self.condemn(event)

    def on_unreachable(self, event: int) -> None:
        self.call_ended(event)
        self.end(event)
        self.down, self.probe_due, self.probing = True, False, -1
        self.apply(event, Input.UNREACHABLE)

    def on_probe(self, _: int) -> None:
        self.probe_due = True

    def on_fault(self, event: int) -> None:
        """Our own code raises, and with that its work has ended."""
        if self.events[event].work:
            self.call_ended(event)
            self.end(event)
            self.probe_ended(event)
        self.apply(event, Input.FAULTED)

    def on_publish(self, event: int) -> None:
        self.end(event)
        self.events[event] = self.events[event]._replace(published=True, outcome="delivered")
        self.apply(event, Input.DECIDED)

    def on_refuse(self, event: int) -> None:
        self.end(event)
        self.give_up(event)

    def on_due(self, event: int) -> None:
        self.give(event, TIMER)
        self.apply(event, Input.DUE)

    def on_write(self, event: int) -> None:
        self.end(event)
        self.events[event] = self.events[event]._replace(buried=True)
        self.apply(event, Input.WRITTEN)

    def on_settle(self, event: int) -> None:
        self.tell(event, True)

    def on_unsettle(self, event: int) -> None:
        self.tell(event, False)

    def on_again(self, event: int) -> None:
        held = self.events[event]
        self.events[event] = held._replace(hand=(held.hand + 1) % 3)
        self.apply(event, Input.HANDED_OUT)

    on_retell = on_again

    def on_expire(self, event: int) -> None:
        self.apply(event, Input.EXPIRED)

    def on_person(self, event: int) -> None:
        """A person releases the event; the move `skip` gives it up."""
        self.apply(event, Input.RELEASED)

    def on_skip(self, event: int) -> None:
        if self.rules.on_failure == "drop":
            self.events[event] = self.events[event]._replace(outcome="dropped")
            self.apply(event, Input.DECIDED)
        else:
            self.condemn(event)

    def on_revoke(self, key: int) -> None:
        for event, held in enumerate(self.events):
            if self.rules.keys[event] == key and held.holds & ROOM:
                self.apply(event, Input.WITHDRAWN)

    def on_cut(self, _: int) -> None:
        self.cut = True

    def on_mend(self, _: int) -> None:
        self.cut = False

    def on_stop(self, _: int) -> None:
        self.stopping = True
        for event, held in enumerate(self.events):
            if held.holds & ROOM:
                self.apply(event, Input.STOPPED)

    def on_abandon(self, _: int) -> None:
        busy = {State.BURYING, State.SETTLING} & {held.state for held in self.events}
        for event, held in enumerate(self.events):
            if held.state in (busy or {State.RETURNING}):
                self.apply(event, Input.ABANDONED)

    def on_crash(self, _: int) -> None:
        """The process ends and another one starts. The outside stays; a mark stays where a suspect was being called."""
        self.ready, self.lanes = [], [[] for _ in self.lanes]
        self.down, self.probe_due, self.probing, self.cut, self.stopping, self.balance = (
            False,
            False,
            -1,
            False,
            False,
            0,
        )
        self.events = [
            Held(
                delivered=held.delivered, published=held.published, buried=held.buried, dropped=held.dropped,
                told=held.told, marked=held.marked or (held.work == "call" and event in self.rules.suspects),
            )
            for event, held in enumerate(self.events)
        ]  # fmt: skip


setattr(Run, "return", Run.return_)  # the action's name is a keyword


def moves(rules: Rules, world: World) -> list[Move]:
    """Everything that can happen next."""
    left = {name: world.faults > 0 and name in rules.kinds for name in FAULTS}
    found: list[Move] = []
    if not world.stopping:
        # The source hands its events out in order, those that came back too
        to_take = [event for event, held in enumerate(world.events) if not held.told and not held.holds]
        found += [("take", event) for event in to_take[:1]]
    for event, held in enumerate(world.events):
        state = held.state
        if state is State.CALLING:
            if event in rules.suspects and held.marked:
                found.append(("loop", event))
            else:
                found.append(("deliver", event))
                found += [(name, event) for name in ("fail", "unreachable", "fault") if left[name]]
        elif state is State.REPLYING:
            found.append(("publish", event))
            found += [(name, event) for name in ("refuse", "fault") if left[name]]
        elif state is State.RETRYING:
            found.append(("due", event))
        elif state is State.BURYING:
            found.append(("write", event))
        elif state in (State.SETTLING, State.RETURNING, State.RETELLING):
            found.append(("settle", event))
            if left["unsettle"]:
                found.append(("unsettle", event))
        elif state is State.UNTOLD:
            found.append(("retell", event))
        elif state is State.QUEUED and left["fault"] and world.ready[:1] == (event,) and not world.down:
            found.append(("fault", event))
        if state in (State.UNTOLD, State.RETELLING):
            found.append(("expire", event))
        if (left["again"] and held.holds & ROOM) or (left["again"] and state is State.RETELLING):
            found.append(("again", event))
        if state is State.PARKED or (left["person"] and state is State.RETRYING):
            found += [("person", event), ("skip", event)]
    if world.down and not world.probe_due and world.probing < 0:
        found.append(("probe", -1))
    if left["revoke"]:
        found += [("revoke", key) for key, lane in enumerate(world.lanes) if lane]
    if left["cut"] and not world.cut:
        found.append(("cut", -1))
    if world.cut:
        found.append(("mend", -1))
    if left["stop"] and not world.stopping:
        found.append(("stop", -1))
    if world.stopping and any(held.state in (State.BURYING, State.SETTLING, State.RETURNING) for held in world.events):
        found.append(("abandon", -1))
    if left["crash"] or (world.stopping and not any(held.holds & ROOM for held in world.events)):
        found.append(("crash", -1))
    return found


def after(rules: Rules, world: World, move: Move) -> tuple[World, list[tuple[State, Input]]]:
    """The world after the move, and the rows that it used. Raises Violation; IllegalInput without a row."""
    run = Run(rules, world)
    run.move(*move)
    return run.world(), run.rows


def finished(world: World) -> bool:
    """Whether every event is settled and the source knows it."""
    return all(held.told for held in world.events)
