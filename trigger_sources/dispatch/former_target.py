"""Decides at which function's place a trigger goes on, after an edit gave it another function. Pure."""

from collections.abc import Callable, Collection

from trigger_sources.values import frozen

TARGET_KEY = "target"  # in the state of the trigger without a function: the target that has the trigger's place


@frozen()
class Former:
    """The function whose state the new one takes over; None: it goes on with its own, or begins.

    `candidates`: the functions that have a place, where it is not clear which of them the new one replaces.
    """

    function: str | None = None
    candidates: tuple[str, ...] = ()


# Takes the target that was noted last, and the functions that have state
Decision = Callable[[str | None, Collection[str]], Former]


def is_to_be_noted(function: str, noted: str | None, with_state: Collection[str]) -> bool:
    """Whether `function` has to be noted as the target: without state of others, it is the only candidate anyway."""
    return noted != function and bool(set(with_state) - {function})


def former_of(function: str, ended: Collection[str], noted: str | None, with_state: Collection[str]) -> Former:
    """The former target of a trigger whose only target is `function` now. `ended` ran until now in this process."""
    others = set(with_state) - {function}
    if noted == function or function in ended or not others:
        return Former()
    if noted in others:
        return Former(noted)
    if len(ran := others.intersection(ended)) == 1:
        return Former(ran.pop())
    if function in with_state:
        return Former()
    return Former(others.pop()) if len(others) == 1 else Former(None, tuple(sorted(others)))
