"""The algebra of subjects, against an enumeration of all short subjects."""

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.nats.subjects import all_covered, covers, extended, overlap, overlapping, transformed

# Patterns have at most three tokens of a and b. `c` stands for every other token, and one token more for every length
ALL = [".".join(tokens) for length in range(1, 6) for tokens in product("abc", repeat=length)]


@st.composite
def patterns(draw: st.DrawFn) -> str:
    tokens = draw(st.lists(st.sampled_from("ab*"), min_size=1, max_size=3))
    return ".".join([*tokens[:2], ">"] if draw(st.booleans()) else tokens)


def matching(pattern: str) -> set[str]:
    """The subjects that match, as NATS defines it."""
    tokens = pattern.split(".")
    tail = tokens[-1] == ">"
    head = tokens[:-1] if tail else tokens
    found = set()
    for subject in ALL:
        given = subject.split(".")
        fits = len(given) > len(head) if tail else len(given) == len(head)
        if fits and all(token in ("*", there) for token, there in zip(head, given, strict=False)):
            found.add(subject)
    return found


@given(patterns(), patterns())
def test_covering_and_overlapping_are_those_of_the_sets_of_subjects(one: str, other: str) -> None:
    assert covers(one, other) == (matching(one) >= matching(other))
    assert overlap(one, other) == bool(matching(one) & matching(other))


@given(st.lists(patterns(), max_size=4), patterns())
def test_several_patterns_cover_a_subject_only_together_with_all_that_matches_it(found: list[str], one: str) -> None:
    assert all_covered(found, one) == (set().union(*map(matching, found)) >= matching(one))


@given(st.lists(patterns(), max_size=4), patterns())
def test_an_extended_stream_has_everything_and_no_two_subjects_that_overlap(given: list[str], one: str) -> None:
    apart: list[str] = []
    for pattern in given:
        if not any(overlap(pattern, there) for there in apart):
            apart.append(pattern)
    found = extended(apart, one)
    assert all(all_covered(found, pattern) for pattern in [*apart, one])
    assert not any(overlap(here, there) for here, there in combinations(found, 2))


@pytest.mark.parametrize(
    ("given", "subject", "wanted"),
    [
        (["orders.created"], "orders.>", ["orders.>"]),
        (["orders.created"], "orders.paid", ["orders.created", "orders.paid"]),
        (["orders.created", "users"], "orders.*", ["users", "orders.*"]),
        (["a.*.c"], "a.b.>", ["a.*.>"]),
        (["orders"], "orders.>", ["orders", "orders.>"]),
    ],
)
def test_a_stream_is_extended_by_no_more_than_is_needed(given: list[str], subject: str, wanted: list[str]) -> None:
    assert extended(given, subject) == wanted


def test_a_wildcard_does_not_ask_for_internal_subjects() -> None:
    assert overlapping(["$KUBEIRQ.dead.x.>", "orders"], ">") == ["orders"]
    assert overlapping(["$KV.settings.>"], "$KV.settings.*") == ["$KV.settings.>"]


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ("a.>", "b.>", ["c", "b.>"]),
        (">", "x.>", ["x.>"]),
        ("a.>", "b.$1.y", ["c", "b.*.y"]),
        ("a.>", "b.{{Wildcard(1)}}.{{ partition(3,1) }}", ["c", "b.*.*"]),
        ("a.>", "b.{{split(1,-)}}", None),
        ("a.>", "b.x$1", None),
    ],
)
def test_the_subjects_of_a_stream_that_renames(source: str, destination: str, expected: list[str] | None) -> None:
    assert transformed(["a.>", "c"], source, destination) == expected
