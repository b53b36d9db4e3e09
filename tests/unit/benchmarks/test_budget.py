"""The division of an event's instructions by phase."""

import importlib

import pytest

from benchmarks.budget import OTHER, PLACES, by_phase, table

EMPTY = [f"{OTHER} enters", "empty leaves"] * 2


def test_each_phase_has_its_instructions_without_those_of_the_marks() -> None:
    # empty calls: 10 instructions inside, 20 around
    marks = [*EMPTY, f"{OTHER} enters", "parse enters", "settle leaves", "parse leaves"]
    counts = [5_000, 10, 20, 10, 700, 120, 310, 230]
    # parse: 120 before its inner call, less 20 around it; 230 after it, less 10 of its own
    assert by_phase(marks, counts, 2, 1) == {"parse": 320, "settle": 300}


def test_the_instructions_are_those_of_one_event() -> None:
    marks = [*EMPTY, *[f"{OTHER} enters", "write leaves"] * 2]
    counts = [0, 10, 20, 10, 0, 110, 50, 210]
    assert by_phase(marks, counts, 2, 2) == {"write": 150}


def test_the_table_is_in_the_order_of_the_phases() -> None:
    found = {"write": 2_500.0, "parse": 7_000.0, OTHER: 500.0}
    assert table(found, ["parse", "write"])[2:] == [
        "| parse | 7 000 | 70 % |",
        "| write | 2 500 | 25 % |",
        "| other | 500 | 5 % |",
        "| all | 10 000 | |",
    ]


@pytest.mark.parametrize("row", ["kafka", "jetstream"])
def test_the_places_of_the_phases_are_there(row: str) -> None:
    for place in (place for places in PLACES[row].values() for place in places):
        module, _, path = place.partition(":")
        owner = importlib.import_module(module)
        for name in path.split("."):
            owner = getattr(owner, name)
        assert callable(owner)
