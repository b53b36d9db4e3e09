"""The life of an event from taken to gone, as one table. Pure.

Rule 1: this table decides every change of an event's state. The dispatcher finds out what happened, looks up the row,
enters the next state and carries out the row's actions in their order. Nothing else assigns a state. The table begins
after the judgement: `retry.py` says what an answer means, and the dispatcher turns that into an input.

Rule 2: a state says which resources its event holds (`State.holds`). Each row's actions take and give back exactly the
difference, so that an event that leaves a state leaves nothing behind: no timer, no place, no lane.

Rule 3: an input without a row is a fault of ours. `step` raises IllegalInput; the event keeps its state.

The usual life is TAKEN, STARTED, DECIDED, SETTLED: queued, calling, settling, gone.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Literal

Label = Literal["queued", "running", "retrying", "parked", "settling"]


class Resource(Enum):
    """Something that an event holds while it is in a state."""

    ROOM = "counts against the number and the bytes of held events"
    LANE = "is in its lane; as the lane's first event it keeps later ones from starting"
    QUEUE = "waits for a place, or behind the first event of its lane"
    PLACE = "counts against the trigger's concurrency"
    WORK = "a call, a publication, a write or an acknowledgement is under way"
    TIMER = "a timer runs"
    MEMORY = "its outcome is remembered by position"


class State(Enum):
    """Where an event is in its life. `label` is the name that metrics and the command line show."""

    NEW = ("not held yet", "")
    QUEUED = ("waits in its lane", "queued", Resource.ROOM, Resource.LANE, Resource.QUEUE)
    CALLING = ("the function is called", "running", Resource.ROOM, Resource.LANE, Resource.PLACE, Resource.WORK)
    REPLYING = ("its answer is published", "running", Resource.ROOM, Resource.LANE, Resource.PLACE, Resource.WORK)
    RETRYING = ("waits for its next attempt", "retrying", Resource.ROOM, Resource.LANE, Resource.TIMER)
    PARKED = ("waits for a person", "parked", Resource.ROOM, Resource.LANE)
    BURYING = ("its dead letter is written", "settling", Resource.ROOM, Resource.LANE, Resource.WORK)
    SETTLING = ("the source is told its outcome", "settling", Resource.ROOM, Resource.LANE, Resource.WORK)
    RETURNING = ("it is given back to the source", "settling", Resource.ROOM, Resource.LANE, Resource.WORK)
    UNTOLD = ("settled, but the source could not be told", "", Resource.MEMORY)
    RETELLING = ("handed out again, and the source is told now", "", Resource.MEMORY, Resource.WORK)
    GONE = ("not held any longer", "")

    __hash__ = object.__hash__  # each event looks its state up several times; Enum's own hash is a Python function

    def __init__(self, text: str, label: Label | Literal[""], *holds: Resource) -> None:
        self.text = text
        self.label = label
        self.holds = frozenset(holds)


class Input(Enum):
    """Something that happens to an event."""

    TAKEN = "the source yielded it"
    STARTED = "it left the queue: the gate and a place are free for it"
    STARTED_ALONE = "the same, for an event that may be what kills the process: it runs marked, and alone"
    ANSWERED = "the function delivered it, and its answer is to be published"
    DECIDED = "its outcome is final and needs no dead letter: delivered, filtered or dropped"
    CONDEMNED = "its outcome is a dead letter"
    FAILED = "the attempt failed and another one follows"
    EXHAUSTED = "no attempt is left and the policy parks the lane"
    HELD_BACK = "no attempt is left, but everything fails: the event is not to blame"
    UNREACHABLE = "the call never reached the function: no attempt is spent, and the gate is closed until a probe"
    FAULTED = "our own code raised"
    DUE = "its timer fired"
    RELEASED = "a person lets it try again"
    WRITTEN = "its dead letter is durable"
    SETTLED = "the source was told"
    SETTLE_FAILED = "the source could not be told"
    HANDED_OUT = "the source handed its position out again"
    WITHDRAWN = "it is another replica's now, or nobody's: it must not be settled"
    STOPPED = "the flow stops and its grace is over"
    ABANDONED = "the flow stops, and even writes and acknowledgements have had their time"
    EXPIRED = "its outcome need not or cannot be remembered any longer"

    __hash__ = object.__hash__


class Action(Enum):
    """Something that the dispatcher does as part of a row."""

    ENTER = "takes room, a lane and a place in the queue"
    UNQUEUE = "leaves the queue; a lane's first event stays its first"
    CALL = "takes a place and calls the function"
    CALL_ALONE = "takes a place, marks the event durably, calls the function, and removes the mark"
    PUBLISH = "publishes the answer, as often as it takes"
    WRITE = "writes the dead letter, as often as it takes"
    WAIT = "starts the timer of the next attempt"
    UNWAIT = "stops the timer"
    RENEW = "sets the number of attempts and the age back; the history stays"
    REQUEUE_FIRST = "enters the queue in front"
    REQUEUE_LAST = "enters the queue at its end"
    FREE = "gives its place back"
    HANG_UP = "ends the call under way; that says nothing of the function"
    ABORT = "ends the work under way; its result is not wanted"
    SETTLE = "tells the source the outcome"
    RETURN = "tells the source that the event is given back"
    REPLACE = "the newer hand-out is the one that gets settled"
    COUNT = "counts the outcome"
    COUNT_WITHDRAWN = "counts a withdrawn event"
    LEAVE = "gives room and lane back; the lane's next event enters the queue"
    REMEMBER = "keeps the outcome for when the position is handed out again"
    FORGET = "drops the remembered outcome"

    __hash__ = object.__hash__


class IllegalInput(Exception):
    """The table has no row for this input in this state: a fault of the code that gave the input."""


Row = tuple[State, tuple[Action, ...]]
Table = Mapping[State, Mapping[Input, Row]]

_S, _I, _A = State, Input, Action

LIFE: Table = {
    State.NEW: {
        _I.TAKEN: (_S.QUEUED, (_A.ENTER,)),
    },
    State.QUEUED: {
        _I.STARTED: (_S.CALLING, (_A.UNQUEUE, _A.CALL)),
        _I.STARTED_ALONE: (_S.CALLING, (_A.UNQUEUE, _A.CALL_ALONE)),
        # The filter, an unreadable event, or a caller that does not wait for a function that is down
        _I.DECIDED: (_S.SETTLING, (_A.UNQUEUE, _A.SETTLE)),
        _I.CONDEMNED: (_S.BURYING, (_A.UNQUEUE, _A.WRITE)),
        _I.FAULTED: (_S.RETRYING, (_A.UNQUEUE, _A.WAIT)),
        _I.HANDED_OUT: (_S.QUEUED, (_A.REPLACE,)),
        _I.WITHDRAWN: (_S.GONE, (_A.UNQUEUE, _A.COUNT_WITHDRAWN, _A.LEAVE)),
        _I.STOPPED: (_S.RETURNING, (_A.UNQUEUE, _A.RETURN)),
    },
    State.CALLING: {
        _I.DECIDED: (_S.SETTLING, (_A.FREE, _A.SETTLE)),
        _I.ANSWERED: (_S.REPLYING, (_A.PUBLISH,)),
        _I.FAILED: (_S.RETRYING, (_A.FREE, _A.WAIT)),
        _I.CONDEMNED: (_S.BURYING, (_A.FREE, _A.WRITE)),
        _I.EXHAUSTED: (_S.PARKED, (_A.FREE,)),
        _I.HELD_BACK: (_S.QUEUED, (_A.FREE, _A.RENEW, _A.REQUEUE_LAST)),
        # In front: while the function is down no later event may pass this one
        _I.UNREACHABLE: (_S.QUEUED, (_A.FREE, _A.REQUEUE_FIRST)),
        _I.FAULTED: (_S.RETRYING, (_A.FREE, _A.WAIT)),
        _I.HANDED_OUT: (_S.CALLING, (_A.REPLACE,)),
        _I.WITHDRAWN: (_S.GONE, (_A.HANG_UP, _A.FREE, _A.COUNT_WITHDRAWN, _A.LEAVE)),
        _I.STOPPED: (_S.RETURNING, (_A.HANG_UP, _A.FREE, _A.RETURN)),
    },
    State.REPLYING: {
        _I.DECIDED: (_S.SETTLING, (_A.FREE, _A.SETTLE)),
        _I.CONDEMNED: (_S.BURYING, (_A.FREE, _A.WRITE)),
        _I.EXHAUSTED: (_S.PARKED, (_A.FREE,)),
        _I.HELD_BACK: (_S.QUEUED, (_A.FREE, _A.RENEW, _A.REQUEUE_LAST)),
        _I.FAULTED: (_S.RETRYING, (_A.FREE, _A.WAIT)),
        _I.HANDED_OUT: (_S.REPLYING, (_A.REPLACE,)),
        _I.WITHDRAWN: (_S.GONE, (_A.ABORT, _A.FREE, _A.COUNT_WITHDRAWN, _A.LEAVE)),
        _I.STOPPED: (_S.RETURNING, (_A.ABORT, _A.FREE, _A.RETURN)),
    },
    State.RETRYING: {
        _I.DUE: (_S.QUEUED, (_A.REQUEUE_LAST,)),
        _I.RELEASED: (_S.QUEUED, (_A.UNWAIT, _A.RENEW, _A.REQUEUE_LAST)),
        # Skipped by a person
        _I.DECIDED: (_S.SETTLING, (_A.UNWAIT, _A.SETTLE)),
        _I.CONDEMNED: (_S.BURYING, (_A.UNWAIT, _A.WRITE)),
        _I.HANDED_OUT: (_S.RETRYING, (_A.REPLACE,)),
        _I.WITHDRAWN: (_S.GONE, (_A.UNWAIT, _A.COUNT_WITHDRAWN, _A.LEAVE)),
        _I.STOPPED: (_S.RETURNING, (_A.UNWAIT, _A.RETURN)),
    },
    State.PARKED: {
        _I.RELEASED: (_S.QUEUED, (_A.RENEW, _A.REQUEUE_LAST)),
        _I.CONDEMNED: (_S.BURYING, (_A.WRITE,)),
        _I.HANDED_OUT: (_S.PARKED, (_A.REPLACE,)),
        _I.WITHDRAWN: (_S.GONE, (_A.COUNT_WITHDRAWN, _A.LEAVE)),
        _I.STOPPED: (_S.RETURNING, (_A.RETURN,)),
    },
    State.BURYING: {
        _I.WRITTEN: (_S.SETTLING, (_A.SETTLE,)),
        _I.HANDED_OUT: (_S.BURYING, (_A.REPLACE,)),
        _I.WITHDRAWN: (_S.GONE, (_A.ABORT, _A.COUNT_WITHDRAWN, _A.LEAVE)),
        # A dead letter that is under way is better written: the event need not fail all over again
        _I.STOPPED: (_S.BURYING, ()),
        _I.ABANDONED: (_S.RETURNING, (_A.ABORT, _A.RETURN)),
    },
    State.SETTLING: {
        _I.SETTLED: (_S.GONE, (_A.COUNT, _A.LEAVE)),
        # A source that lost its connection hands the position out again, and is told then
        _I.SETTLE_FAILED: (_S.UNTOLD, (_A.COUNT, _A.LEAVE, _A.REMEMBER)),
        _I.HANDED_OUT: (_S.SETTLING, (_A.ABORT, _A.REPLACE, _A.SETTLE)),
        _I.WITHDRAWN: (_S.GONE, (_A.ABORT, _A.COUNT_WITHDRAWN, _A.LEAVE)),
        _I.STOPPED: (_S.SETTLING, ()),
        _I.ABANDONED: (_S.RETURNING, (_A.ABORT, _A.RETURN)),
    },
    State.RETURNING: {
        _I.SETTLED: (_S.GONE, (_A.COUNT, _A.LEAVE)),
        # The source finds out by itself: its connection is gone, or its deadline passes
        _I.SETTLE_FAILED: (_S.GONE, (_A.COUNT, _A.LEAVE)),
        _I.HANDED_OUT: (_S.RETURNING, (_A.ABORT, _A.REPLACE, _A.RETURN)),
        _I.WITHDRAWN: (_S.GONE, (_A.ABORT, _A.COUNT_WITHDRAWN, _A.LEAVE)),
        # The source does not even take it back: it finds out when this process is gone
        _I.ABANDONED: (_S.GONE, (_A.ABORT, _A.COUNT, _A.LEAVE)),
    },
    State.UNTOLD: {
        _I.HANDED_OUT: (_S.RETELLING, (_A.REPLACE, _A.SETTLE)),
        _I.EXPIRED: (_S.GONE, (_A.FORGET,)),
    },
    State.RETELLING: {
        _I.SETTLED: (_S.GONE, (_A.FORGET,)),
        _I.SETTLE_FAILED: (_S.UNTOLD, ()),
        _I.HANDED_OUT: (_S.RETELLING, (_A.ABORT, _A.REPLACE, _A.SETTLE)),
        _I.EXPIRED: (_S.GONE, (_A.ABORT, _A.FORGET)),
    },
    State.GONE: {},
}


def step(state: State, given: Input, table: Table = LIFE) -> Row:
    """The next state and the actions. Raises IllegalInput where the table has no row."""
    try:
        return table[state][given]
    except KeyError:
        raise IllegalInput(f"{given.name} in state {state.name}") from None
