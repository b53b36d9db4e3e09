"""Counts of callgrind, and their comparison."""

import pytest

from benchmarks.callgrind import per_event, spread, totals
from benchmarks.instructions import Result, is_met, lines_of

DUMP = """# callgrind format
version: 1
pid: 12
desc: Trigger: Dump request
events: Ir
summary: 99
fn=(1) totals: 7
totals: 135000
"""


def test_the_totals_of_a_dump_are_its_instructions() -> None:
    assert totals(DUMP) == 135_000


def test_a_dump_that_is_cut_short_is_an_error() -> None:
    with pytest.raises(ValueError, match="no totals"):
        totals(DUMP[: DUMP.index("totals: 135")])


def test_the_costs_of_a_window_cancel_out() -> None:
    start = 4_000
    assert per_event((500, start + 500 * 70), (2_000, start + 2_000 * 70)) == 70


def test_the_spread_is_from_the_least_to_the_most() -> None:
    found = spread([102.0, 98.0, 100.0])
    assert (found.median, found.least, found.most) == (100, 98, 102)
    assert found.percent == pytest.approx(4)


def result(instructions: float, cpu_us: float = 20.0) -> Result:
    return Result(spread([instructions]), spread([cpu_us]))


@pytest.mark.parametrize(("ours", "met"), [(103_000, True), (103_001, False), (90_000, True)])
def test_an_event_may_cost_three_percent_more_than_in_the_other_checkout(ours: float, met: bool) -> None:
    assert is_met([result(ours), result(100_000)]) is met


def test_one_checkout_alone_has_no_goal() -> None:
    assert is_met([result(100_000)])
    (line,) = lines_of("kafka", ["this checkout"], [result(100_000)])
    assert "x:" not in line


def test_the_lines_name_the_ratios_of_instructions_and_of_cpu() -> None:
    first, second = lines_of("kafka", ["this checkout", "the other"], [result(110_000, 22), result(100_000, 20)])
    assert first.endswith("1.100x: NOT MET, CPU 1.10x")
    assert "100,000" in second
