"""The metadata of a commit: what is settled survives, whatever waits between it, and foreign text claims nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trigger_sources.kafka.commit_metadata import MOST_BYTES, decode, encode, marks_of

MARKS = (2**128 - 1, 17)
MAX_DISTANCE = 10_000  # of a trigger, unless it says otherwise


@given(st.integers(0, 2**50), st.sets(st.integers(1, 100_000), max_size=4_000), st.sampled_from([(), MARKS]))
@settings(deadline=None, max_examples=50)
def test_metadata_fits_the_brokers_limit_and_never_claims_too_much(
    base: int, above: set[int], marks: tuple[int, ...]
) -> None:
    settled = {base + offset for offset in above}
    text = encode(base, settled, marks)
    assert len(text.encode()) <= MOST_BYTES
    assert decode(base, text) <= settled
    assert marks_of(text) == list(marks)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.98])
def test_everything_settled_within_the_distance_survives(share: float) -> None:
    """As behind one stuck key that has this share of the records."""
    chance = random.Random(7)
    settled = {1_000 + offset for offset in range(1, MAX_DISTANCE) if chance.random() > share}
    text = encode(1_000, settled, MARKS)
    assert decode(1_000, text) == settled
    assert marks_of(text) == list(MARKS)


def test_few_runs_keep_the_form_that_the_first_version_reads() -> None:
    assert encode(10, {12, 13, 17}, MARKS).startswith("k1:")
    assert encode(10, range(11, 9_000, 2), MARKS).startswith("k2:")
    assert encode(10, ()) == ""


@given(
    st.one_of(
        st.text(max_size=50),
        st.tuples(st.sampled_from(["k1:", "k2:"]), st.binary(max_size=60)).map(lambda found: found[0] + found[1].hex()),
    )
)
def test_foreign_or_damaged_metadata_claims_nothing_absurd(text: str) -> None:
    assert all(offset >= 5 for offset in decode(5, text))
    assert all(mark >= 0 for mark in marks_of(text))


@pytest.mark.parametrize("text", ["some other consumer's note", "", "k1:!!!", "k2:!!!", "k2:", "k2:/w=="])
def test_foreign_metadata_is_ignored(text: str) -> None:
    assert decode(0, text) == set()
    assert marks_of(text) == []
