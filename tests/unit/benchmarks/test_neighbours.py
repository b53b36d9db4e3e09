"""The verdict on what a hostile tenant costs the others."""

from benchmarks.neighbours.verdict import Round, faults, next_share, percentile, says_nothing


def one(bystander: list[float], hostile: list[float], burnt: float = 0.5, taken: float = 0.5) -> Round:
    return Round({"call": bystander}, {"call": hostile}, burnt, taken)


USUAL = [0.01] * 98 + [0.02, 0.5]
SLOWER = [0.01] * 98 + [0.04, 0.04]


def test_the_median_of_the_rounds_ratios_of_the_99th_percentiles_is_bounded() -> None:
    within, slow, noisy = one(USUAL, [0.01] * 98 + [0.03, 9.0]), one(USUAL, SLOWER), one(USUAL, [9.0] * 100)
    assert faults([within], []) == []
    assert faults([within, noisy, within], []) == [], "one noisy round decides nothing"
    assert faults([slow, within, slow], []) == [
        "call: p99 is 2.00 times that beside the bystander, and may be 1.5 times"
    ]
    assert faults([one(USUAL, USUAL)], ["call: status 503"]) == ["1 probes failed, the first: call: status 503"]


def test_the_percentile_is_one_of_the_times() -> None:
    assert [percentile([3.0, 1.0, 2.0], part) for part in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]


def test_a_busy_machine_gives_no_verdict() -> None:
    assert says_nothing([one([1.0], [1.0])]) == ""
    assert "got 0.03 cores" in says_nothing([one([1.0], [1.0], taken=0.03)])
    assert "the bystander 0.10" in says_nothing([one([1.0], [1.0], burnt=0.1)])
    waiting = one([1.0], [1.0])
    waiting.waiting = 0.8
    assert "waited for a core for 80% of their time" in says_nothing([waiting])
    assert says_nothing([one([1.0], [1.0]), one([1.0], [1.0], burnt=0.1), one([1.0], [1.0])]) == ""


def test_the_bystander_tries_to_use_more_where_it_gets_less_than_it_asks_for() -> None:
    assert next_share(0.5, burnt=0.5, taken=0.8) == 0.8
    assert next_share(0.8, burnt=0.6, taken=0.6) == 0.8
    assert next_share(1.0, burnt=0.01, taken=0.4) == 0.8
    assert next_share(0.0, burnt=0.0, taken=0.4) == 0.4
