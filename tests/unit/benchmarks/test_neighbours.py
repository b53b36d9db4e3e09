"""The verdict on what a hostile tenant costs the others."""

from benchmarks.neighbours.verdict import Rounds, faults, percentile


def rounds(bystander: list[float], hostile: list[float], burnt: float = 0.5, taken: float = 0.5) -> Rounds:
    return Rounds({"call": bystander}, {"call": hostile}, [burnt], [taken])


def test_the_ratio_of_the_99th_percentiles_is_bounded() -> None:
    usual = [0.01] * 98 + [0.02, 0.5]
    assert faults(rounds(usual, [0.01] * 98 + [0.03, 9.0]), []) == []
    assert faults(rounds(usual, [0.01] * 98 + [0.04, 0.04]), []) == [
        "call: p99 is 2.00 times that beside the bystander, and may be 1.5 times"
    ]
    assert faults(rounds(usual, usual), ["call: status 503"]) == ["1 probes failed, the first: call: status 503"]


def test_the_percentile_is_one_of_the_times() -> None:
    assert [percentile([3.0, 1.0, 2.0], part) for part in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]


def test_a_busy_machine_gives_no_verdict() -> None:
    assert rounds([1.0], [1.0]).says_nothing == ""
    assert "got 0.03 cores" in rounds([1.0], [1.0], taken=0.03).says_nothing
    assert "the bystander 0.10" in rounds([1.0], [1.0], burnt=0.1).says_nothing
