"""Says which handlers have run for long, and where they are: in the log, and in the answer to /healthz."""

import asyncio
import sys
import threading
import time

from .failure import one_line, place_in_coroutine, place_in_stack

HEADER = "kubeirq-busy"  # of the answer to /healthz, while a handler has run for long
LONG_SECONDS = 5.0
QUIET_SECONDS = 30.0  # between two lines of the log
AWAY_SECONDS = 0.3  # without a turn of the loop, which comes every worker.TURN_SECONDS
_MOST_CHARACTERS = 300


class BusyNotes:
    """Says in the log that a handler has run for long. The first call that does is named, and not each one."""

    def __init__(self, worker, say):
        self._worker = worker
        self._say = say
        self._quiet_until = 0.0
        self._told = 0.0  # when the call began that was named last

    def look(self, now):
        call = _longest(self._worker)
        if call is None or now < self._quiet_until or call.started == self._told:
            return
        if now - call.started >= LONG_SECONDS:
            self._told = call.started
            self._quiet_until = now + QUIET_SECONDS
            self._say(busy_text(self._worker))


def busy_text(worker):
    """`1 of 1 handlers busy, since 12:00:05 with event 17 (h.py:17 in nap)`; empty while none has run for long."""
    call = _longest(worker)
    now = time.monotonic()
    if call is None or now - call.started < LONG_SECONDS:
        return ""
    calls = worker.calls
    since = time.strftime("%H:%M:%S", time.localtime(time.time() - now + call.started))
    place = _place_of(call, worker, now)
    text = f"{calls.running} of {worker.handler.concurrency} handlers busy, the longest for {now - call.started:.0f} s"
    text += f" (since {since}) with event {call.event_id}"
    text += f", at {place}" if place else ""
    text += f"; {calls.waiting} requests wait for them" if calls.waiting else ""
    return one_line(text)[:_MOST_CHARACTERS]


def _longest(worker):
    """The oldest call that has not begun to answer. None without one, and under a debugger, where a person waits."""
    if worker.settings.debug_port:
        return None
    calls = (call for call in worker.calls.under_way.copy().values() if not call.answer_began)
    return min(calls, key=lambda call: call.started, default=None)


def _place_of(call, worker, now):
    """The own lines where the handler is. Of several threads nobody knows which one has the call: all are named."""
    code_path = worker.settings.code_path
    if not worker.settings.tells_failures:
        return ""
    frames = sys._current_frames()
    if call.is_inline or now - worker.turned > AWAY_SECONDS:
        return place_in_stack(frames.get(threading.main_thread().ident), code_path)
    if isinstance(call.future, asyncio.Task):
        return place_in_coroutine(call.future.get_coro(), code_path)
    main = threading.main_thread().ident
    places = {place_in_stack(frame, code_path) for thread, frame in frames.items() if thread != main}
    return ", ".join(sorted(filter(None, places))[:3])
