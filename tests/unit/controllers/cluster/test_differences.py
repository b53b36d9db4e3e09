"""Whether a live object has what is wanted: no write where it has, one where it lacks anything."""

from typing import Any

import pytest

from controllers.cluster.differences import contains, has_stale_fields, overridden_fields
from controllers.cluster.quantities import amount_of

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
    assert contains(LIVE, wanted)


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
    assert not contains(LIVE, wanted)


SPELLINGS = [("1.1", "1.10"), ("1", "1.0"), ("007", "7"), ("1Ki", "1024"), ("1e3", "1000"), ("+1", "1"), (1, "1")]


def at(path: str, value: Any) -> Any:
    """An object with the value at that place; a number in the path is a list with one item."""
    for name in reversed(path.split("/")):
        value = [{"name": "x", **value}] if name == "0" else {name: value}
    return value


@pytest.mark.parametrize(
    "path",
    [
        "metadata/labels/version",
        "metadata/labels/storage",
        "metadata/annotations/sizeLimit",
        "data/storage",
        "spec/template/spec/nodeSelector/storage",
        "spec/template/spec/nodeSelector/limits",
        "spec/template/spec/containers/0/env/0/value",
        "spec/template/spec/volumes/0/csi/volumeAttributes/storage",
        "status/state/requests",
    ],
)
@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_two_spellings_of_a_number_are_two_values(path: str, one: Any, other: Any) -> None:
    assert contains(at(path, one), at(path, one))
    assert not contains(at(path, one), at(path, other))
    assert not contains(at(path, other), at(path, one))


@pytest.mark.parametrize(
    "path",
    [
        "spec/template/spec/containers/0/resources/requests/cpu",
        "spec/template/spec/initContainers/0/resources/limits/example.com~1gpu",
        "spec/template/spec/resources/limits/memory",
        "spec/template/spec/overhead/cpu",
        "spec/template/spec/volumes/0/emptyDir/sizeLimit",
        "spec/template/spec/volumes/0/ephemeral/volumeClaimTemplate/spec/resources/requests/storage",
        "spec/template/spec/containers/0/env/0/valueFrom/resourceFieldRef/divisor",
    ],
)
@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_two_spellings_of_a_quantity_are_one_value(path: str, one: Any, other: Any) -> None:
    assert contains(at(path, one), at(path, other))


def test_true_is_not_the_number_one() -> None:
    assert not contains({"a": 1}, {"a": True})
    assert not contains({"a": True}, {"a": 1})


def test_the_order_of_named_items_counts() -> None:
    """`$(NAME)` refers to earlier variables only, and init containers run in order."""
    live = [{"name": "injected"}, {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)"}]
    assert contains({"env": live}, {"env": [{"name": "A"}, {"name": "B"}]})
    assert not contains({"env": live}, {"env": [{"name": "B"}, {"name": "A"}]})


WANTED: dict[str, Any] = {
    "apiVersion": "v1",
    "metadata": {"annotations": {"a.b/c": "d"}},
    "spec": {
        "env": [{"name": "A", "value": "1"}],
        "ports": [{"containerPort": 8080}],
        "set": ["x"],
        "atomic": {"p": 1},
    },
}
PORT = 'k:{"containerPort":8080,"protocol":"TCP"}'
APPLIED: dict[str, Any] = {
    "f:metadata": {"f:annotations": {"f:a.b/c": {}}},
    "f:spec": {
        "f:env": {'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}}},
        "f:ports": {PORT: {".": {}, "f:containerPort": {}}},
        "f:set": {'v:"x"': {}},
        "f:atomic": {},
    },
}


def applied(fields: dict[str, Any], **entry: Any) -> dict[str, Any]:
    by = {"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsV1": fields, **entry}
    return {"metadata": {"managedFields": [{"manager": "m", "operation": "Update", "apiVersion": "v1"}, by]}}


def test_what_is_applied_and_still_wanted_is_not_left_over() -> None:
    assert not has_stale_fields(applied(APPLIED), WANTED, "m")
    assert not has_stale_fields({"metadata": {}}, WANTED, "m"), "where nothing is told, nothing is known to be"


@pytest.mark.parametrize(
    "fields",
    [
        {"f:metadata": {"f:annotations": {"f:other": {}}}},
        {"f:metadata": {"f:labels": {"f:a": {}}}},
        {"f:spec": {"f:env": {'k:{"name":"B"}': {".": {}, "f:name": {}}}}},
        {"f:spec": {"f:env": {'k:{"name":"A"}': {"f:valueFrom": {}}}}},
        {"f:spec": {"f:ports": {PORT: {"f:hostPort": {}}}}},
        {"f:spec": {"f:set": {'v:"y"': {}}}},
        {"f:spec": {"f:replicas": {}}},
    ],
)
def test_what_was_applied_and_is_wanted_no_more_is_left_over(fields: dict[str, Any]) -> None:
    assert has_stale_fields(applied(fields), WANTED, "m")
    for other in ({"manager": "n"}, {"operation": "Update"}, {"subresource": "status"}, {"apiVersion": "v2"}):
        assert not has_stale_fields(applied(fields, **other), WANTED, "m"), other


@pytest.mark.parametrize(
    ("one", "other"),
    [("500m", 0.5), ("1", 1), ("1Ki", "1024"), ("0.1", "100m"), ("1500M", "1.5G"), ("1e3", "1k")],
)
def test_one_amount_has_many_spellings(one: str, other: Any) -> None:
    assert amount_of(one) == amount_of(other)


@pytest.mark.parametrize("text", ["", "Mi", "1Xi", "one", "1 Mi"])
def test_what_is_no_quantity_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        amount_of(text)


@pytest.mark.parametrize(
    ("owned", "overridden"),
    [
        ([{"f:spec": {"f:replicas": {}, "f:paused": {}}}], ["spec.replicas"]),
        ([{"f:spec": {"f:paused": {}}}], None),  # another manager changed it
        ([], None),  # a restore from a backup leaves no owners
    ],
)
def test_only_a_webhook_changes_a_field_without_becoming_its_owner(owned: Any, overridden: Any) -> None:
    wanted = {"apiVersion": "apps/v1", "spec": {"replicas": 2, "paused": False}}
    entry = {"manager": "kubeirq", "operation": "Apply", "apiVersion": "apps/v1"}
    metadata = {"managedFields": [{**entry, "fieldsV1": fields} for fields in owned]}
    live = {"apiVersion": "apps/v1", "metadata": metadata, "spec": {"replicas": 3, "paused": False}}
    assert overridden_fields(live, wanted, "kubeirq") == overridden
