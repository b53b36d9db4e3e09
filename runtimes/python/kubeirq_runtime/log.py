"""The lines that the runtime itself writes to the function's log."""

import os
import sys

_OUR_FILES = os.path.dirname(__file__) + os.sep


def say(text):
    sys.stderr.write(f"runtime: {text}\n")
    sys.stderr.flush()


def say_traceback(head, error):
    """Only the frames of the function: the runtime's frames above them are the same every time."""
    import traceback  # here, to keep the supervisor small

    frames = error.__traceback__
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if not file.startswith(_OUR_FILES) and "importlib" not in file:
            break
        frames = frames.tb_next
    sys.stderr.write(head + "".join(traceback.format_exception(type(error), error, frames)))
    sys.stderr.flush()
