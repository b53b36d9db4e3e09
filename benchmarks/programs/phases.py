"""Runs a module's `main` like unhurried.py, and marks where phases of an event's way begin and end.

phases.py MARKS EMPTY PHASE=PLACE[,PLACE ...] ... -- MODULE [ARGUMENT ...]. A place is `module:function` or
`module:Class.method`. A call of a place belongs to its phase, except for the calls of other places inside it.

SIGUSR2 begins the marking, with EMPTY calls of a function that does nothing. The next SIGUSR2 ends it, and writes the
file MARKS. That has one line for each mark: the phase that was under way, and whether the mark enters another phase or
leaves this one.

A mark is a call of `getpriority`, a function that nothing else calls: callgrind writes a dump before it.
"""

import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import coroutine
from typing import Any

from unhurried import run

_marks: list[str] = []
_open = ["other"]
_is_on = False


def _mark(text: str, mark: Callable[[int, int], int] = os.getpriority) -> None:
    _marks.append(text)
    mark(0, 0)


def _in(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **named: Any) -> Any:
        if not _is_on:
            return function(*arguments, **named)
        _mark(_open[-1] + " enters")
        _open.append(phase)
        try:
            return function(*arguments, **named)
        finally:
            _mark(_open.pop() + " leaves")

    return called


def _stepped(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Each step of a coroutine belongs to the phase; while it waits, nothing does."""

    async def called(*arguments: Any, **named: Any) -> Any:
        if not _is_on:
            return await function(*arguments, **named)
        return await _steps(phase, function(*arguments, **named))

    return called


@coroutine
def _steps(phase: str, inner: Any) -> Generator[Any, Any, Any]:
    step, value = inner.send, None
    while True:
        _mark(_open[-1] + " enters")
        _open.append(phase)
        try:
            found = step(value)
        except StopIteration as end:
            return end.value
        finally:
            _mark(_open.pop() + " leaves")
        try:
            step, value = inner.send, (yield found)
        except BaseException as error:  # noqa: BLE001  it is the coroutine's
            step, value = inner.throw, error


def _answers_in(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Of `Endpoint.start`: whatever its callback does with the answer belongs to the phase."""

    def called(self: Any, method: Any, target: Any, headers: Any, body: Any, answered: Any, **named: Any) -> Any:
        return function(self, method, target, headers, body, _in(phase, answered), **named)

    return called


def _install(phase: str, place: str) -> None:
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function = getattr(owner, name)
    if path == "Endpoint.start":
        function = _answers_in("settle", function)
    wrap = _stepped if inspect.iscoroutinefunction(function) else _in
    setattr(owner, name, wrap(phase, function))


def _turn(marks: Path, empty_calls: int) -> None:
    global _is_on
    if _is_on:
        _is_on = False
        marks.write_text("\n".join(_marks))
        return
    _is_on = True
    empty = _in("empty", lambda *_: None)
    for number in range(empty_calls):
        empty(number, number, number)


def main() -> None:
    marks, empty_calls = Path(sys.argv[1]), int(sys.argv[2])
    end = sys.argv.index("--")
    sys.path.insert(1, "")
    for argument in sys.argv[3:end]:
        phase, _, places = argument.partition("=")
        for place in places.split(","):
            _install(phase, place)
    signal.signal(signal.SIGUSR2, lambda *_: _turn(marks, empty_calls))
    sys.argv[1 : end + 1] = []
    run()


if __name__ == "__main__":
    main()
