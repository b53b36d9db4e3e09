"""Says in the live view when a function or trigger is not ready, and when it is ready again. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kubeirq.output.event_display import duration

_MOST_CHARACTERS = 600


@dataclass(frozen=True)
class State:
    """`problem` is empty for a part that is ready. `starts`: it is neither ready nor in trouble yet."""

    problem: str = ""
    starts: bool = False


@dataclass
class _Trouble:
    problem: str
    since: float


class StateChanges:
    """Call `look` again and again with the state of each function and trigger by its name."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._troubled: dict[str, _Trouble] = {}
        self._has_said_all = False

    def look(self, states: Mapping[str, State], now: float) -> None:
        """`now` is in seconds."""
        for name, state in states.items():
            known = self._troubled.get(name)
            if state.problem and (known is None or known.problem != state.problem):
                self._troubled[name] = _Trouble(state.problem, now if known is None else known.since)
                self._notice(f"{name} is not ready: {_cut(state.problem)}")
            elif known is not None and not state.problem and not state.starts:
                del self._troubled[name]
                self._notice(f"{name} is ready again, after {duration(now - known.since)}")
        for name in self._troubled.keys() - states.keys():
            del self._troubled[name]
        if not self._has_said_all and not self._troubled and not any(state.starts for state in states.values()):
            self._has_said_all = True
            self._notice("all functions and triggers are ready")


def _cut(problem: str) -> str:
    return problem if len(problem) <= _MOST_CHARACTERS else problem[: _MOST_CHARACTERS - 1] + "…"
