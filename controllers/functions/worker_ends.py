"""How the worker processes of a function ended, as its runtime tells. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

TIME_OUT = "time-out"  # as the runtime has it
HEADER = "kubeirq-worker-ended"  # in answers to /healthz: seconds since then, and how
_MOST_SECONDS = 1e9
_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class WorkerEnd:
    """The end of a worker that crashed or was replaced."""

    at: float  # in seconds of the monotonic clock
    how: str  # `exit code 7`, `signal SIGSEGV (h.py:9 in handler)`, `time-out`


def worker_end_in(headers: Mapping[str, str], now: float) -> WorkerEnd | None:
    """The last end of which the runtime tells. None if it tells of none. `now` is of the monotonic clock."""
    seconds, _, how = headers.get(HEADER, "").partition(" ")
    try:
        ago = float(seconds)
    except ValueError:
        return None
    return WorkerEnd(now - ago, how[:_MOST_CHARACTERS]) if 0 <= ago <= _MOST_SECONDS and how else None


def end_text(how: str, worker: str = "the worker process") -> str:
    """The end for people."""
    if how == TIME_OUT:
        return f"{worker} was replaced, as a call took too long"
    killed, _, why = how.partition(", ")
    if killed == "signal SIGKILL" and why.startswith("out of memory"):
        return f"{worker} was killed by the kernel: {why}"
    more = " (out of memory, or it hung)" if how == "signal SIGKILL" else ""
    return f"{worker} ended with {how}{more}"


def lost_text(how: str, *, sole: bool = True) -> str:
    """Why a call lost its connection. `sole`: the function has one replica, so this worker is the one that ran it."""
    if not sole:
        return f"{end_text(how, 'a worker process of the function')} while this event was called"
    where = "while this event was beside or behind it" if how == TIME_OUT else "while it ran this event"
    return f"{end_text(how)} {where}"
