"""Runs a module's `main` on an event loop without short timers: unhurried.py MODULE [ARGUMENT ...].

Valgrind makes a process fifty times slower, but not its timers: those that fire every few milliseconds would dominate
the count. A timer that is due sooner than in two seconds fires after two seconds. Heartbeats are still in time. The
loop's clock is the CPU time of the process, so that no call times out and no connection retires on a busy machine.
"""

import importlib
import sys
import time
from collections.abc import Callable
from contextvars import Context

import uvloop

_LEAST_SECONDS = 2.0


class Unhurried(uvloop.Loop):  # type: ignore[misc]
    time = staticmethod(time.process_time)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> object:
        return super().call_later(max(delay, _LEAST_SECONDS) if delay > 0 else delay, callback, *args, context=context)


def run() -> None:
    """The module comes from the working directory."""
    uvloop.Loop = Unhurried
    del sys.argv[0]
    sys.path[0] = ""
    importlib.import_module(sys.argv[0]).main()


if __name__ == "__main__":
    run()
