"""The growth of memory in a soak."""

import pytest
from soak.watch import growth

MB = 1_000_000


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([50] * 60, 0),
        ([50 + second for second in range(60)], 27),
        ([50 + second for second in range(30)] + [80] * 30, 0),
        ([50], 0),
    ],
)
def test_growth_is_that_of_the_second_half(sizes: list[int], wanted: int) -> None:
    found = growth([(float(second), 1, size * MB) for second, size in enumerate(sizes)])
    assert found / MB == pytest.approx(wanted, abs=1.5)


def test_a_process_that_has_just_started_is_left_out() -> None:
    first = [(float(second), 1, 80 * MB) for second in range(30)]
    second = [(30.0 + second, 2, (80 if second > 5 else 40) * MB) for second in range(30)]
    assert growth([*first, *second]) == pytest.approx(0, abs=1)
