"""A place names its topic; where to begin follows from the commit, the kept place and the present topic."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.kafka.commit_metadata import decode, encode
from trigger_sources.kafka.places import (
    AT_BEGINNING,
    Beginning,
    Place,
    beginning_of,
    place_of_commit,
    place_of_text,
    topic_name,
)

X, Y = 0x5F, 2**127 + 3

places = st.builds(
    Place,
    offset=st.just(100),
    settled=st.frozensets(st.integers(100, 400), max_size=40),
    topic_id=st.integers(0, 2**128 - 1),
    renamed=st.booleans(),
    times=st.integers(0, 1_000),
)


@given(places)
def test_a_place_comes_back_from_a_commit(place: Place) -> None:
    assert place_of_commit(place.offset, place.metadata()) == place


@given(places)
def test_earlier_versions_read_the_settled_offsets_of_a_commit(place: Place) -> None:
    """They take a mark for a gap before no settled offset."""
    assert decode(place.offset, place.metadata()) == place.settled


@given(st.frozensets(st.integers(0, 1_000_000), min_size=900, max_size=1_000), st.integers(0, 2**128 - 1))
def test_a_kept_place_is_small_and_claims_no_more_than_is_settled(settled: frozenset[int], topic_id: int) -> None:
    text = Place(0, settled, topic_id, True, 3).kept_text()
    found = place_of_text(text)
    assert len(text) < 300
    assert found is not None
    assert found.settled <= settled
    assert (found.topic_id, found.renamed, found.times) == (topic_id, True, 3)


@given(st.text(max_size=40))
def test_foreign_texts_are_no_places(text: str) -> None:
    found = place_of_text(text)
    assert found is None or found.offset >= 0
    assert place_of_commit(5, text).offset == 5


def test_a_commit_of_version_0_1_names_no_topic() -> None:
    assert place_of_commit(3, "k1:AQICAQ==") == Place(3, {4, 5, 8})
    assert place_of_commit(3, "") == Place(3)


@given(places, st.lists(st.integers(0, 1_000), max_size=3))
def test_marks_that_a_later_version_adds_change_nothing(place: Place, more: list[int]) -> None:
    for known in (place, replace(place, epoch=3), replace(place, waiting=2, reach=9), replace(place, since=7)):
        marks = (*known.marks, *(0, 0, 0, 0))[:6]
        metadata = encode(known.offset, known.settled, (*marks, *more))
        assert place_of_commit(known.offset, metadata) == known
        assert place_of_text(f"{known.offset} {metadata}") == known


COMMIT, KEPT = Place(7, {9}, X, times=2), Place(5, {6}, X)
NEW = Place(AT_BEGINNING)


@pytest.mark.parametrize(
    ("commit", "kept", "topic_id", "expected"),
    [
        (None, None, X, Beginning(Place(AT_BEGINNING, topic_id=X), "New")),
        (None, None, 0, Beginning(NEW, "New")),
        (COMMIT, None, X, Beginning(COMMIT, "Committed", True)),
        (COMMIT, KEPT, 0, Beginning(COMMIT, "Committed", True)),
        # Version 0.1, or a broker that keeps no metadata
        (Place(7, {9}), None, X, Beginning(Place(7, {9}, X), "Committed")),
        (Place(7), Place(7, topic_id=X, renamed=True, times=4), X, Beginning(Place(7, (), X, True, 4), "Committed")),
        (Place(7), Place(6, topic_id=X, times=4), X, Beginning(Place(7, (), X), "Committed")),
        (Place(7), None, 0, Beginning(Place(7), "Committed")),
        # The broker forgot the group
        (None, KEPT, X, Beginning(KEPT, "OffsetsForgotten")),
        (None, KEPT, 0, Beginning(NEW, "New")),
        (None, Place(5), X, Beginning(Place(AT_BEGINNING, topic_id=X), "New")),
        # Another topic of the same name
        (COMMIT, KEPT, Y, Beginning(Place(AT_BEGINNING, topic_id=Y, renamed=True), "TopicRecreated")),
        (None, KEPT, Y, Beginning(Place(AT_BEGINNING, topic_id=Y, renamed=True), "TopicRecreated")),
        (Place(7), KEPT, Y, Beginning(Place(AT_BEGINNING, topic_id=Y, renamed=True), "TopicRecreated")),
        (Place(7, (), Y, True), KEPT, Y, Beginning(Place(7, (), Y, True), "Committed", True)),
    ],
)
def test_where_to_begin(commit: Place | None, kept: Place | None, topic_id: int, expected: Beginning) -> None:
    found = beginning_of(commit, kept, topic_id)
    assert (found.origin, found.in_group) == (expected.origin, expected.in_group)
    assert set(found.place.settled) == set(expected.place.settled)
    assert (found.place.offset, found.place.marks) == (expected.place.offset, expected.place.marks)


def test_names_change_only_with_a_topic_that_was_recreated() -> None:
    assert topic_name("orders", Place(0, topic_id=X)) == "orders"
    names = {topic_name("orders", Place(0, topic_id=found, renamed=True)) for found in (X << 100, Y)}
    assert len(names) == 2
    assert all(name.startswith("orders@") for name in names)
