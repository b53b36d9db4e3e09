"""A dead letter that is damaged, or of another program, is a ValueError and nothing else."""

import contextlib
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from servers.letters import letter

from trigger_sources.dead_letters import letter_from_metadata, metadata_from_letter

WHOLE: dict[str, Any] = orjson.loads(metadata_from_letter(letter("p/0/1")))
SCALARS = st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner))


@given(st.dictionaries(st.sampled_from(sorted(WHOLE)), ANYTHING))
def test_metadata_with_other_values_is_no_dead_letter_or_one(changes: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        letter_from_metadata(orjson.dumps({**WHOLE, **changes}), b"x")


@given(ANYTHING)
def test_other_json_is_no_dead_letter(value: Any) -> None:
    with contextlib.suppress(ValueError):
        letter_from_metadata(orjson.dumps(value), b"x")


@given(st.binary(max_size=40))
def test_other_bytes_are_no_dead_letter(value: bytes) -> None:
    with contextlib.suppress(ValueError):
        letter_from_metadata(value, b"x")
