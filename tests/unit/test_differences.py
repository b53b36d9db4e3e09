"""Whether a live object has what is wanted: no write where it has, one where it lacks anything."""

from typing import Any

import pytest

from controllers.differences import has
from controllers.quantities import amount_of

LIVE: dict[str, Any] = {
    "metadata": {"name": "f", "uid": "1", "labels": {"a": "b", "theirs": "x"}},
    "spec": {
        "replicas": 2,
        "template": {
            "containers": [
                {"name": "injected"},
                {"name": "function", "image": "i:1", "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}}},
            ]
        },
        "args": ["a", "b"],
        "mounts": [{"name": "v", "at": "/1", "ro": True}, {"name": "v", "at": "/2"}],
    },
}


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"metadata": {"labels": {"a": "b"}}},
        {"spec": {"template": {"containers": [{"name": "function", "image": "i:1"}]}}},
        {"spec": {"template": {"containers": [{"name": "function", "resources": {"limits": {"cpu": 0.5}}}]}}},
        {"spec": {"template": {"containers": [{"name": "function", "env": []}]}, "empty": {}, "none": None}},
        {"spec": {"args": ["a", "b"]}},
        {"spec": {"mounts": [{"name": "v", "at": "/1"}, {"name": "v", "at": "/2"}]}},
    ],
)
def test_it_has_all_of_it(wanted: Any) -> None:
    assert has(LIVE, wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        {"metadata": {"labels": {"a": "c"}}},
        {"metadata": {"labels": {"b": ""}}},
        {"spec": {"replicas": 3}},
        {"spec": {"template": {"containers": [{"name": "function", "image": "i:2"}]}}},
        {"spec": {"template": {"containers": [{"name": "other"}]}}},
        {"spec": {"args": ["a"]}},
        {"spec": {"args": ["b", "a"]}},
        {"spec": {"args": "a"}},
        {"spec": "text"},
        {"spec": {"mounts": [{"name": "v", "at": "/1"}, {"name": "v", "at": "/3"}]}},
        {"spec": {"template": {"containers": [{"name": "function", "resources": {"limits": {"cpu": "1"}}}]}}},
    ],
)
def test_it_lacks_something(wanted: Any) -> None:
    assert not has(LIVE, wanted)


@pytest.mark.parametrize(
    ("one", "other"),
    [("500m", 0.5), ("1", 1), ("1Ki", "1024"), ("0.1", "100m"), ("1500M", "1.5G"), ("1e3", "1k")],
)
def test_one_amount_has_many_spellings(one: str, other: Any) -> None:
    assert amount_of(one) == amount_of(other)


@pytest.mark.parametrize("text", ["", "Mi", "1Xi", "one", "1 Mi"])
def test_what_is_no_quantity_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        amount_of(text)
