"""Says in one bounded line why a call failed: `KeyError: 'kind' (orders.py:12 in handler)`."""

import os
import time

from .answer import BadAnswer

HEADER = "kubeirq-error"  # of an answer to the fabric
MOST_BYTES = 512
_MOST_CAUSES = 10


def failure_of(error, code_path):
    """The exception's type and message, and the last frame that belongs to the function's own code."""
    if isinstance(error, BadAnswer):
        return _line(f"the handler returned {error}", "")
    error = _first_of_group(error)
    try:
        text = str(error)
    except Exception as problem:
        text = f"its message cannot be read: {type(problem).__name__}"
    name = type(error).__name__
    return _line(f"{name}: {text}" if text else name, _place_of(error, code_path))


def overdue_of(seconds, frame, code_path):
    """The same for a call that took too long; `frame` is the innermost one that runs, or None."""
    return _line(f"the handler took more than {seconds:g} s", place_in_stack(frame, code_path))


def left_of(call, place):
    """Says that the fabric waits no longer for a call that goes on, and where the handler is, if that is known."""
    waited = time.monotonic() - call.started
    text = f"event {call.event_id}: the trigger waits no longer, after {waited:.1f} s; the handler still runs"
    return _line(text, place)


def place_in_stack(frame, code_path):
    """The innermost own frame of a stack; `frame` is its end, or None."""
    place = ""
    while frame is not None and not place:
        place = _place_in(frame.f_code, frame.f_lineno, code_path)
        frame = frame.f_back
    return place


def place_in_coroutine(coroutine, code_path):
    """The innermost own frame of a coroutine that waits."""
    place = ""
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        place = _place_in(frame.f_code, frame.f_lineno, code_path) or place
        coroutine = coroutine.cr_await
    return place


def one_line(text):
    """The text with spaces for line ends, without other characters that a header cannot carry."""
    text = " ".join(text.split())
    return text if text.isprintable() else "".join(map(_printable, text))


def _line(text, place):
    """Text and place. A text that is too long loses its end; the place stays."""
    place = f" ({_cut(place, MOST_BYTES // 3)})" if place else ""
    return _cut(text, MOST_BYTES - len(place.encode())) + place


def _cut(text, most):
    """The beginning of the text as one line of at most so many bytes, with a mark where it is cut."""
    line = one_line(text[: 2 * most])
    encoded = line.encode()
    if len(encoded) <= most and len(text) <= 2 * most:
        return line
    return encoded[: most - len("…".encode())].decode(errors="ignore") + "…"


def _printable(character):
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _first_of_group(error):
    """A task group's error says nothing itself: its first error does."""
    for _ in range(_MOST_CAUSES):
        if not isinstance(error, BaseExceptionGroup):
            break
        error = error.exceptions[0]
    return error


def _place_of(error, code_path):
    """The last own frame of the error, or else of the errors that caused it."""
    for _ in range(_MOST_CAUSES):
        place = ""
        frames = error.__traceback__
        while frames is not None:
            place = _place_in(frames.tb_frame.f_code, frames.tb_lineno, code_path) or place
            frames = frames.tb_next
        error = error.__cause__
        if place or error is None:
            return place
    return ""


def _place_in(code, line, code_path):
    file = code.co_filename
    folder = code_path.rstrip(os.sep) + os.sep
    if not file.startswith(folder) or f"{os.sep}site-packages{os.sep}" in file:
        return ""
    return f"{file[len(folder) :]}:{line} in {code.co_name}"
