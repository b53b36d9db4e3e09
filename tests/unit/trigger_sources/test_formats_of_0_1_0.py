"""Stored bytes of version 0.1.0 are read, and written again as they were: that version can read them, too."""

import contextlib
import sqlite3

import pytest
from servers.recorded import Recorded, extract

from trigger_sources.dead_letters import letter_from_metadata, metadata_from_letter
from trigger_sources.http.events import from_record, record_from
from trigger_sources.kafka.dead_letters import METADATA_HEADER
from trigger_sources.kafka.places import place_of_commit
from trigger_sources.stores.sqlite import Store


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return extract(tmp_path_factory.mktemp("recorded"))


def test_dead_letters_of_a_topic(recorded: Recorded) -> None:
    records = recorded.facts["kafka"]["records"]["kubeirq.default.company-letters.dead-letters"]
    assert len(records) == 3
    for key, value, headers in records:
        metadata = bytes.fromhex(dict(headers)[METADATA_HEADER])
        letter = letter_from_metadata(metadata, bytes.fromhex(value))
        assert metadata_from_letter(letter) == metadata
        assert bytes.fromhex(key).decode() == f"{letter.trigger_uid}/{letter.identity}"
        assert dict(letter.headers) == {"x-sent": b"caf\xe9"}


def test_rows_of_a_store(recorded: Recorded) -> None:
    with contextlib.closing(sqlite3.connect(recorded.state / "kubeirq.sqlite")) as connection:
        letters = connection.execute("SELECT metadata, data FROM dead_letters").fetchall()
        accepted = [record for (record,) in connection.execute("SELECT record FROM inbox")]
    assert (len(letters), len(accepted)) == (3, 7)
    for metadata, data in letters:
        assert metadata_from_letter(letter_from_metadata(metadata, data)) == metadata
    for record in accepted:
        assert record_from(*from_record(record)) == record


async def test_a_store_after_a_crash_hands_its_accepted_events_out_as_if_for_the_first_time(recorded: Recorded) -> None:
    async with Store.open(recorded.state / "kubeirq.sqlite") as store:
        kept = await store.inbox("default/HTTPTrigger/http-parks").take(10, 0)
        assert [(found.position, found.handed_out) for found in kept] == [
            (position, 1) for position in ("10", "11", "12", "13", "15")
        ]


def test_commits_of_a_group(recorded: Recorded) -> None:
    places = [place for found in recorded.facts["kafka"]["groups"].values() for place in found]
    assert len(places) == 2
    for topic, _, offset, metadata in places:
        place = place_of_commit(offset, metadata)
        assert place.settled == ({5, 6, 7} if topic == "company-letters" else {5, 7})
        assert (place.topic_id, place.renamed, place.times) == (0, False, 0)
        assert place.metadata().startswith("k1:")
