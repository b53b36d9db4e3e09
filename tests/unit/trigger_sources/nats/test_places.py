"""The place where a consumer that is missing begins: a decision without a server."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.kept_state import Damaged
from trigger_sources.nats.consumer import Owner, may_write, updated
from trigger_sources.nats.place import Place, beginning, kept_place
from trigger_sources.nats.source_stream import SourceStream
from trigger_sources.source import SourceError
from trigger_sources.testing.stand_in import MemoryState

CREATED = "2026-11-27T19:27:41.929486494Z"
STARTS = st.sampled_from(["all", "new", "1", "77", "2026-01-01T00:00:00Z"])


def stream(created: str = CREATED, last: int = 100, name: str = "S") -> SourceStream:
    return SourceStream(name, created, ("s.>",), last, opaque=False, plain=True)


def kept(floor: int, created: str = CREATED, name: str = "S") -> Place:
    return Place(stream(created, name=name).place, "s.>", floor, "2026-11-01T00:00:00.123456789Z", name)


def test_a_position_is_the_same_as_in_version_0_1_0() -> None:
    assert stream().place == "S@1795807661929486494"


@given(STARTS, st.integers(0, 500), st.integers(0, 500))
def test_in_the_same_stream_nothing_is_skipped_and_nothing_acknowledged_is_read_again(
    start: str, floor: int, last: int
) -> None:
    found = beginning(start, "s.>", stream(last=last), kept(floor))
    assert found.config == {"deliver_policy": "by_start_sequence", "opt_start_seq": min(floor, last) + 1}


@given(STARTS, st.integers(0, 500))
def test_no_sequence_of_another_stream_counts(start: str, floor: int) -> None:
    found = beginning(start, "s.>", stream("2026-11-28T00:00:00Z"), kept(floor))
    assert "opt_start_seq" not in found.config
    assert found.config["deliver_policy"] != "new"
    assert found.reason == "StreamRecreated"
    assert found.ids != "S"


def test_new_means_the_first_start_in_another_stream_too() -> None:
    for other in (stream("2026-11-28T00:00:00Z"), stream(name="T")):
        found = beginning("new", "s.>", other, kept(7))
        assert found.config == {"deliver_policy": "by_start_time", "opt_start_time": "2026-11-01T00:00:00.123456789Z"}


async def kept_in(value: bytes) -> Place | Damaged | None:
    state = MemoryState()
    await state.put("jetstream-place", value)
    return await kept_place(state)


async def test_a_place_is_read_as_it_was_written_and_a_trigger_that_never_ran_has_none() -> None:
    assert await kept_in(kept(3).to_bytes()) == kept(3)
    assert await kept_place(MemoryState()) is None
    more = orjson.dumps({**orjson.loads(kept(3).to_bytes()), "more": 1})
    assert await kept_in(more) == kept(3), "a newer version may have added fields"


@given(st.integers(0, len(kept(3).to_bytes()) - 1))
async def test_a_place_that_is_cut_is_damaged_and_never_absent(length: int) -> None:
    assert isinstance(await kept_in(kept(3).to_bytes()[:length]), Damaged)


@given(st.binary(max_size=40))
async def test_garbage_is_damaged_and_never_absent(value: bytes) -> None:
    assert isinstance(await kept_in(value), Damaged)


@given(
    st.sampled_from(["stream", "subject", "floor", "since", "ids", "unread", "tally", "consumer"]),
    st.sampled_from([None, -1, "", "?", [], {"counted": "x"}]),
)
async def test_a_field_of_another_kind_is_damaged(name: str, value: Any) -> None:
    if (name, value) in [(name, text) for name in ("subject", "ids", "consumer") for text in ("", "?")]:
        return
    if (name, value) == ("tally", []):
        value = "x"
    assert isinstance(await kept_in(orjson.dumps({**orjson.loads(kept(3).to_bytes()), name: value})), Damaged)


async def test_a_place_of_a_newer_format_stops_the_trigger() -> None:
    with pytest.raises(SourceError, match="newer version") as error:
        await kept_in(orjson.dumps({"version": 2, "where": "elsewhere"}))
    assert error.value.reason == "StateNewer"


def test_an_update_keeps_the_place_and_the_settings_of_an_operator() -> None:
    found = {
        "deliver_policy": "by_start_sequence", "opt_start_seq": 5, "filter_subjects": ["a", "b"], "max_batch": 7,
        "metadata": {"_nats.ver": "2.15", "team": "shop"},
    }  # fmt: skip
    wanted = {"filter_subject": "c", "metadata": {"kubeirq.dev/uid": "u"}}
    assert updated(found, wanted) == {
        "deliver_policy": "by_start_sequence", "opt_start_seq": 5, "filter_subject": "c", "max_batch": 7,
        "metadata": {"team": "shop", "kubeirq.dev/uid": "u"},
    }  # fmt: skip


def test_the_fabrics_own_names_are_taken_over_from_version_0_1_0_whatever_changed_in_the_spec() -> None:
    info = {"name": "kubeirq-a-b-c", "stream_name": "S", "config": {"filter_subject": "old"}, "num_waiting": 3}
    owner = Owner("a/b", "c", "uid")
    assert may_write(info, {"filter_subject": "new"}, owner, chosen=False, in_order=True) == "write"
