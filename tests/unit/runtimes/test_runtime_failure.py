"""The line that says why a call failed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from runtimes.python.kubeirq_runtime.answer import BadAnswer
from runtimes.python.kubeirq_runtime.failure import MOST_BYTES, failure_of, overdue_of

HERE = str(Path(__file__).parent)
FILE = Path(__file__).name


def raised(code: Callable[[], object]) -> BaseException:
    try:
        code()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def look_up() -> object:
    return {}["kind"]


def wrapped() -> object:
    try:
        return look_up()
    except KeyError as error:
        raise RuntimeError("no kind") from error


class Unprintable(Exception):
    def __str__(self) -> str:
        raise OSError("no text")


def test_it_names_type_message_and_the_last_own_frame() -> None:
    line = look_up.__code__.co_firstlineno + 1
    assert failure_of(raised(look_up), HERE) == f"KeyError: 'kind' ({FILE}:{line} in look_up)"


def test_frames_of_others_are_passed_over() -> None:
    error = raised(lambda: Path("/nowhere/at/all").read_text())
    assert failure_of(error, HERE).startswith("FileNotFoundError: [Errno 2] No such file or directory")
    assert f"({FILE}:" in failure_of(error, HERE)
    assert failure_of(error, "/another/folder").endswith("'/nowhere/at/all'")


def test_an_error_without_an_own_frame_is_placed_by_its_cause() -> None:
    cause = raised(look_up)
    error = RuntimeError("the handler raised StopIteration")
    error.__cause__ = cause
    assert failure_of(error, HERE).endswith("in look_up)")


def test_the_error_itself_comes_before_its_cause() -> None:
    assert failure_of(raised(wrapped), HERE).startswith("RuntimeError: no kind (")
    assert failure_of(raised(wrapped), HERE).endswith("in wrapped)")


def test_a_group_is_told_by_its_first_error() -> None:
    group = ExceptionGroup("unhandled errors in a TaskGroup", [raised(look_up)])  # type: ignore[list-item]
    assert failure_of(group, HERE).startswith("KeyError: 'kind' (")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(), "ValueError"),
        (ValueError("two\nlines\r\nkubeirq-x: y"), "ValueError: two lines kubeirq-x: y"),
        (ValueError("bell\a nul\0 \ud800"), "ValueError: bell\\x07 nul\\x00 \\ud800"),
        (ValueError("größe ✓"), "ValueError: größe ✓"),
        (Unprintable(), "Unprintable: its message cannot be read: OSError"),
        (BadAnswer("a set; an answer is text"), "the handler returned a set; an answer is text"),
    ],
)
def test_any_message_is_one_printable_line(error: Exception, line: str) -> None:
    assert failure_of(error, HERE) == line


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 100_000, "\0" * 100_000, "a b\n" * 100_000])
def test_a_long_message_is_cut_and_keeps_its_place(text: str) -> None:
    def fail() -> None:
        raise ValueError(text)

    line = failure_of(raised(fail), HERE)
    assert len(line.encode()) <= MOST_BYTES
    assert line.endswith("… (" + line.rpartition("(")[2])
    assert line.endswith("in fail)")


def test_a_long_path_is_cut() -> None:
    code = compile("def fail():\n    raise ValueError('x' * 1000)\n", f"{HERE}/{'d' * 2_000}.py", "exec")
    found: dict[str, Callable[[], object]] = {}
    exec(code, found)
    assert len(failure_of(raised(found["fail"]), HERE).encode()) <= MOST_BYTES


def test_a_call_that_takes_too_long_is_placed_by_its_innermost_own_frame() -> None:
    error = raised(look_up)
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_next is not None
    frame = error.__traceback__.tb_next.tb_frame
    assert overdue_of(0.5, frame, HERE).startswith("the handler took more than 0.5 s (")
    assert overdue_of(0.5, None, HERE) == "the handler took more than 0.5 s"
