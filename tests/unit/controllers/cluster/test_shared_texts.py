"""Cached objects share the texts that all of them have."""

from controllers.cluster import api
from controllers.cluster.api import with_shared_texts


def condition(number: int) -> dict[str, object]:
    """Made at run time, as JSON is, so that no two of its texts are the same object."""
    return {
        "".join(["ty", "pe"]): "".join(["Rea", "dy"]),
        "message": "".join(["a long message of trigger ", str(number)]),
    }


def test_names_and_short_texts_are_the_same_strings_in_all_objects() -> None:
    one, other = (with_shared_texts({"conditions": [condition(number)]})["conditions"][0] for number in range(2))
    assert one == condition(0)
    assert other == condition(1)
    assert one["type"] is other["type"]
    assert next(iter(one)) is next(iter(other))


def test_texts_without_end_take_no_more_and_more_memory() -> None:
    for number in range(30_000):
        with_shared_texts({"resourceVersion": str(number)})
    assert len(api._short_texts) <= api._MOST_SHORT_TEXTS + 1
