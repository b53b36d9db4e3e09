"""Ages are short in a table, and words in a sentence."""

import re
import time

import pytest

from kubeirq.output.formats import age, ago, span


@pytest.mark.parametrize(
    ("seconds", "short", "words"),
    [
        (0.5, "0s", "0 seconds"),
        (1.5, "1s", "1 second"),
        (119.5, "119s", "1 minute 59 seconds"),
        (185.5, "3m5s", "3 minutes 5 seconds"),
        (3_000.5, "50m", "50 minutes"),
        (7_500.5, "2h5m", "2 hours 5 minutes"),
        (40_000.5, "11h", "11 hours 6 minutes"),
        (270_000.5, "3d3h", "3 days 3 hours"),
        (900_000.5, "10d", "10 days 10 hours"),
    ],
)
def test_the_two_largest_units_of_an_age_are_shown(seconds: float, short: str, words: str) -> None:
    at = time.time() - seconds
    assert (age(at), span(at)) == (short, words)


def test_a_moment_has_its_time_and_its_age() -> None:
    assert re.fullmatch(r"([0-9-]{10} )?\d\d:\d\d:\d\d, 5 seconds ago", ago(time.time() - 5.5))
    assert re.fullmatch(r"[0-9-]{10} \d\d:\d\d:\d\d, 2 days ago", ago(time.time() - 2 * 86_400 - 0.5))
