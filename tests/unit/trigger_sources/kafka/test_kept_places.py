"""The places that a trigger keeps: what cannot be read is never taken for a trigger that never began."""

import pytest
from aiokafka import TopicPartition

from trigger_sources.kafka.kept_places import KeptPlaces
from trigger_sources.kafka.places import Place
from trigger_sources.testing import StandInContext

TP = TopicPartition("t", 0)
GARBAGE = [b"", b"\x00\xff", b"\xff 12", b"{"]


def places_with(**values: bytes) -> KeptPlaces:
    context = StandInContext()
    context.state.values.update({name.replace("__", "/"): value for name, value in values.items()})
    return KeptPlaces(context, "cluster/group")


@pytest.mark.parametrize("value", GARBAGE)
async def test_a_damaged_note_of_the_start_does_not_decide_the_start_again(value: bytes) -> None:
    assert await places_with(started=value).look()
    assert await places_with(started=value).former_group("cluster") is None


async def test_a_note_of_the_start_is_one_of_the_same_group() -> None:
    assert not await places_with().look()
    assert await places_with(started=b"cluster/group").look()
    assert not await places_with(started=b"cluster/other").look()
    assert await places_with(started=b"cluster/other").former_group("cluster") == "other"


@pytest.mark.parametrize("value", GARBAGE)
async def test_a_damaged_place_is_left_out_and_stops_nobody(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    places = places_with(started=b"cluster/group", place__t__0=value)
    assert await places.look()
    assert await places.read([TP]) == {}
    assert "state is damaged" in caplog.text


async def test_a_place_is_read_as_it_was_written() -> None:
    places = places_with(started=b"cluster/group")
    assert await places.look()
    place = Place(7, frozenset({9}), topic_id=3)
    assert await places.write({TP: place.kept_text()})
    assert await places.read([TP]) == {TP: place}


@pytest.mark.parametrize("value", [*GARBAGE, b"[1]", b'["t/x"]', b"{}"])
async def test_a_damaged_list_of_deleted_topics_is_begun_anew(value: bytes) -> None:
    places = places_with(gone=value)
    assert await places.gone([TP], []) == []
