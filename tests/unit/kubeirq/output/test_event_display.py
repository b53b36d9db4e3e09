"""The live view of events: one line for each, a limit a second, and function output between them."""

import re

from kubeirq.output.event_display import EventDisplay, duration, event_line, printable, short_id
from kubeirq.output.function_log_lines import LINE_MAX_BYTES, LineCutter, LogLine
from trigger_sources.dispatch.held import Seen


def seen(what: str = "delivered", **rest: object) -> Seen:
    fields: dict[str, object] = {"at": 0.0, "kind": "KafkaTrigger", "trigger": "orders", "function": "invoice"}
    return Seen(**{**fields, "event_id": "c/orders/0/7", "what": what, **rest})  # type: ignore[arg-type]


def test_an_event_is_one_line_with_its_outcome() -> None:
    line = event_line(
        seen("retry", status=500, latency_seconds=0.0123, attempt=2, message="status 500", again_seconds=0.8)
    )
    assert line[8:] == "  orders → invoice  c/orders/0/7  failed  500  12.3 ms  attempt 2  (status 500; again in 0.8 s)"


def test_events_over_the_limit_are_counted_by_outcome() -> None:
    lines: list[str] = []
    display = EventDisplay(lines.append, colours=False, lines_per_second=2)
    for _ in range(1_236):
        display.event(seen())
    for _ in range(3):
        display.event(seen("retry"))  # failures have their own limit
    assert ["failed" in line for line in lines] == [False, False, True, True]
    display.tick()
    assert lines[4].strip() == "… 1 235 more in the last second: 1 234 delivered, 1 retried"
    display.event(seen())
    display.tick()
    assert len(lines) == 6


def test_control_characters_in_events_and_logs_do_not_reach_the_terminal() -> None:
    lines: list[str] = []
    display = EventDisplay(lines.append, colours=False)
    display.event(seen(event_id="\x1b[2Jx"))
    display.log_line(LogLine("f", "\x1b]0;title\x07"))
    assert not any("\x1b" in line or "\x07" in line for line in lines)
    assert printable("grün → ok") == "grün → ok"


def test_ids_are_whole_unless_they_are_huge() -> None:
    assert short_id("df26eb8806034664bbefa1e44da12bec/validate/invoice").endswith("ec/validate/invoice")
    assert short_id("x" * 1_000 + "/invoice") == "x" * 187 + "…xxxx/invoice"


def test_a_caller_that_got_the_functions_failure_is_told_as_answered_and_not_as_dropped() -> None:
    display = EventDisplay((lines := []).append, colours=False, lines_per_second=2)
    display.event(seen("answered", status=500, message="status 500: KeyError: 'kind' (f.py:3 in handler)"))
    display.event(seen("answered", message="FunctionDown: nothing listens"))
    display.event(seen("answered", status=500))
    display.tick()
    assert "  answered  500  (status 500: KeyError: 'kind' (f.py:3 in handler))" in lines[0]
    assert "  refused  (FunctionDown: nothing listens)" in lines[1]
    assert lines[2].strip() == "… 1 more in the last second: 1 answered with a failure"


def test_durations_have_a_suitable_unit() -> None:
    assert [duration(0.0004), duration(0.25), duration(3.21)] == ["0.4 ms", "250 ms", "3.2 s"]


def test_lines_may_span_chunks_and_long_lines_are_cut() -> None:
    lines = LineCutter("f", lambda: 0.0)
    found = [
        *lines.feed(b"one\ntw"),
        *lines.feed(b"o\n" + b"x" * (LINE_MAX_BYTES + 5)),
        *lines.feed(b"\nlast"),
        *lines.end(),
    ]
    assert [line.text for line in found] == ["one", "two", "x" * LINE_MAX_BYTES + " … (5 bytes more)", "last"]


def test_a_note_says_how_many_lines_were_left_out() -> None:
    now = 0.0
    lines = LineCutter("f", lambda: now, burst=3, per_second=2)
    assert len(list(lines.feed(b"x\n" * 10))) == 3
    assert list(lines.pause()) == []
    now = 1.5
    found = list(lines.feed(b"again\n"))
    assert [line.text for line in found] == ["… 7 lines left out", "again"]
    assert found[0].left_out


def test_the_reason_of_an_event_that_fails_again_is_shown_once() -> None:
    lines: list[str] = []
    display = EventDisplay(lines.append, colours=False, attempts_of=lambda _: 5)
    for attempt in (1, 2):
        display.event(seen("retry", status=500, attempt=attempt, message="KeyError: 'kind'", again_seconds=1.0))
    display.event(seen("retry", status=500, attempt=3, message="another", again_seconds=1.0))
    display.event(seen("deadLettered", attempt=4, message="another"))
    assert [line.partition("failed  ")[2] for line in lines[:3]] == [
        "500  (KeyError: 'kind'; again in 1.0 s)",
        "500  attempt 2 of 5  (as before; again in 1.0 s)",
        "500  attempt 3 of 5  (another; again in 1.0 s)",
    ]
    assert lines[3].endswith("dead-lettered  attempt 4  (another)")


def test_a_line_of_a_function_has_its_time() -> None:
    display = EventDisplay((lines := []).append, colours=False)
    display.log_line(LogLine("f", "hello"))
    assert re.fullmatch(r"\d\d:\d\d:\d\d f \| hello", lines[0])
