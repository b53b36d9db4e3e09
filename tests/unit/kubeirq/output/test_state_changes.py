"""The live view says once that something is not ready, and says when it is ready again."""

from kubeirq.output.state_changes import State, StateChanges

READY = State()
DOWN = State("its process ended: exit status 3")


def test_a_problem_is_said_once_and_so_is_its_end() -> None:
    changes = StateChanges((lines := []).append)
    for second, state in enumerate([READY, DOWN, DOWN, State(starts=True), DOWN, READY, READY]):
        changes.look({"function f": state}, float(second))
    assert lines == [
        "all functions and triggers are ready",
        "function f is not ready: its process ended: exit status 3",
        "function f is ready again, after 4.0 s",
    ]


def test_another_problem_is_said_too() -> None:
    changes = StateChanges((lines := []).append)
    changes.look({"function f": DOWN}, 0)
    changes.look({"function f": State("another")}, 1)
    assert lines[1:] == ["function f is not ready: another"]


def test_all_are_ready_once_nothing_starts_any_more() -> None:
    changes = StateChanges((lines := []).append)
    changes.look({"function f": State(starts=True), "HTTPTrigger/web": READY}, 0)
    assert not lines
    changes.look({"function f": READY, "HTTPTrigger/web": READY}, 1)
    assert lines == ["all functions and triggers are ready"]


def test_what_is_removed_is_forgotten() -> None:
    changes = StateChanges((lines := []).append)
    changes.look({"function f": DOWN}, 0)
    changes.look({}, 1)
    changes.look({"function f": READY}, 2)
    assert lines == [
        "function f is not ready: its process ended: exit status 3",
        "all functions and triggers are ready",
    ]
