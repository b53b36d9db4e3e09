"""The lines that the runtime itself writes to the function's log."""

import os
import sys
import time

_SAME_SECONDS = 30.0
_MOST_TRACEBACKS = 50
_OUR_FILES = os.path.dirname(__file__) + os.sep


def say(text):
    sys.stderr.write(f"runtime: {text}\n")
    sys.stderr.flush()


def say_traceback(head, error):
    sys.stderr.write(head + traceback_of(error))
    sys.stderr.flush()


class Failures:
    """Says why calls failed. A traceback that is the same as before is said in one line, for some seconds."""

    def __init__(self):
        self._said = {}  # until when, by the hash of a traceback

    def say(self, event_id, error, in_short):
        text = traceback_of(error)
        now = time.monotonic()
        if now < self._said.get(hash(text), 0.0):
            sys.stderr.write(f"event {event_id}: the handler raised {in_short}, with the same traceback as before\n")
        else:
            if len(self._said) >= _MOST_TRACEBACKS:
                self._said.clear()
            self._said[hash(text)] = now + _SAME_SECONDS
            sys.stderr.write(f"event {event_id}: the handler raised\n{text}")
        sys.stderr.flush()


def traceback_of(error):
    """Only the frames of the function: the runtime's frames above them are the same every time."""
    import traceback  # here, to keep the supervisor small

    frames = error.__traceback__
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if not file.startswith(_OUR_FILES) and "importlib" not in file:
            break
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))
