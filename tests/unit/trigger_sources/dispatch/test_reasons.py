"""The reason of a failed call, from the function's own answer."""

import pytest

from trigger_sources.delivery import Answer
from trigger_sources.dispatch.reasons import MOST_CHARACTERS, failure_text, reason_of


def answer(body: bytes, content_type: str | None = "text/plain", **headers: str) -> Answer:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Answer(500, named if content_type is None else [("content-type", content_type), *named], body)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (answer(b"the handler failed\n", kubeirq_error="KeyError: 'x' (f.py:3 in h)"), "KeyError: 'x' (f.py:3 in h)"),
        (answer(b"no such customer\nask for another\n"), "no such customer"),
        (answer(b"\r\n  no such customer"), "no such customer"),
        (answer(b'{\n  "error": "no such customer"\n}', "application/json"), '{ "error": "no such customer" }'),
        (answer(b"no type", None), "no type"),
        (answer(b"<!DOCTYPE html><h1>oops</h1>", "text/html"), ""),
        (answer(b"\x1f\x8b", "text/plain", content_encoding="gzip"), ""),
        (answer(b"\x00\x01", "application/octet-stream"), ""),
        (answer(b""), ""),
        (answer(b"\x1b[2Jcleared"), "\N{REPLACEMENT CHARACTER}[2Jcleared"),
        (answer(b"x", kubeirq_error="one\r\ntwo"), "one two"),
    ],
)  # fmt: skip
def test_the_runtimes_words_come_before_the_first_line_of_the_body(found: Answer, reason: str) -> None:
    assert reason_of(found) == reason


@pytest.mark.parametrize("body", [b"x" * 8_000_000, "ü".encode() * 4_000_000, b"a b" * 1_000_000, b"\xff" * 10_000])
def test_a_reason_is_bounded(body: bytes) -> None:
    assert len(reason_of(answer(body))) <= MOST_CHARACTERS
    assert len(reason_of(answer(b"", kubeirq_error="é" * 60_000))) <= MOST_CHARACTERS


def test_the_text_has_the_status_where_there_is_one() -> None:
    assert failure_text(500, "why") == "status 500: why"
    assert failure_text(500, "") == "status 500"
    assert failure_text(None, "timed out") == "timed out"
