"""Code in ConfigMaps: one content has one name, another has another, and too much is refused with ways out."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.functions.config_map import MAX_BYTES, TooLarge, config_map_of, digest_of, key_of

METADATA = {"name": "invoice", "namespace": "shop"}
FILES = st.dictionaries(st.text("ab/.é_- ", min_size=1, max_size=8), st.text(max_size=20), max_size=4)


def test_it_is_immutable_and_named_by_what_is_in_it() -> None:
    found = config_map_of(METADATA, {"invoice.py": "x = 1\n"})

    assert found["immutable"] is True
    assert found["data"] == {"invoice.py": "x = 1\n"}
    assert found["metadata"]["namespace"] == "shop"
    assert re.fullmatch(r"invoice-[0-9a-f]{10}", found["metadata"]["name"])
    assert METADATA["name"] == "invoice"


def test_the_name_is_the_same_in_every_version() -> None:
    # a change here rolls every function of every cluster at an upgrade
    assert digest_of({"a.py": "1", "b.py": "2"}) == "46d0801d10"


@given(FILES, FILES)
def test_names_are_the_same_for_the_same_content_only(one: dict[str, str], other: dict[str, str]) -> None:
    assert (digest_of(one) == digest_of(other)) == (one == other)
    assert digest_of(one) == digest_of(dict(reversed(one.items())))


@given(FILES)
def test_every_path_has_a_legal_key_of_its_own(files: dict[str, str]) -> None:
    data = config_map_of(METADATA, files)["data"]

    assert len(data) == len(files)
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) and not key.startswith("..") for key in data)
    assert all(data[key_of(path)] == text for path, text in files.items())


def test_what_fits_is_taken_and_a_byte_more_is_refused_with_ways_out() -> None:
    fits = "é" * ((MAX_BYTES - len("f.py")) // 2)
    config_map_of(METADATA, {"f.py": fits})

    with pytest.raises(TooLarge, match=r"spec\.source: 900 KiB .*\burl\b.*\bimage\b"):
        config_map_of(METADATA, {"f.py": fits + "é"})


def test_a_file_of_code_may_have_the_name_of_the_file_of_dependencies() -> None:
    data = config_map_of(METADATA, {"requirements.txt": "of the code"}, dependencies={"requirements.txt": "numpy"})[
        "data"
    ]

    assert data == {"requirements.txt": "of the code", ".requirements.txt": "numpy"}
