"""The place of the error that ended a function's process."""

from pathlib import Path

from kubeirq.on_machine.program_runner import place_of_error


def test_the_place_is_the_last_line_of_the_function_s_own_code() -> None:
    lines = [
        "Traceback (most recent call last):",
        '  File "/app/orders.py", line 3, in <module>',
        "    import shop.prices",
        '  File "/app/shop/prices.py", line 7, in <module>',
        '  File "/usr/lib/python3/json/decoder.py", line 355, in raw_decode',
        "ValueError: no",
    ]
    assert place_of_error(lines, Path("/app")) == " (shop/prices.py:7)"
    unclosed = ['  File "/app/f.py", line 1', "    def f(", "SyntaxError: '(' was never closed"]
    assert place_of_error(unclosed, Path("/app")) == " (f.py:1)"
    assert place_of_error(["worker ended"], Path("/app")) == ""
