"""podTemplate over the built pod: each rule by example, and what holds for every patch."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.cluster.strategic_merge import MERGE_KEYS, BadPatch, merged

POD: dict[str, Any] = {
    "spec": {
        "containers": [
            {
                "name": "function",
                "image": "python",
                "command": ["python3", "server.py"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"name": "http", "containerPort": 8080}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "securityContext": {"runAsUser": 65532, "runAsNonRoot": True},
    }
}


def of_function(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "function", **fields}]}}


def test_fields_of_objects_are_merged_and_null_removes_one() -> None:
    result = merged(POD, {"spec": {"securityContext": {"runAsUser": None, "fsGroup": 1}, "priorityClassName": "high"}})

    assert result["spec"]["securityContext"] == {"runAsNonRoot": True, "fsGroup": 1}
    assert result["spec"]["priorityClassName"] == "high"
    assert result["spec"]["containers"] == POD["spec"]["containers"]


def test_a_container_is_found_by_its_name_and_another_one_follows() -> None:
    patch = {"spec": {"containers": [{"name": "proxy", "image": "p"}, {"name": "function", "image": "mine"}]}}

    first, second = merged(POD, patch)["spec"]["containers"]

    assert first == {**POD["spec"]["containers"][0], "image": "mine"}
    assert second == {"name": "proxy", "image": "p"}


@pytest.mark.parametrize(
    ("field", "patch", "expected"),
    [
        ("env", [{"name": "B", "value": "3"}], [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}]),
        (
            "env",
            [{"name": "B", "value": None, "valueFrom": {"x": 1}}],
            [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"x": 1}}],
        ),
        ("env", [{"name": "A", "$patch": "delete"}], [{"name": "B", "value": "2"}]),
        ("env", [{"name": "Z", "$patch": "delete"}], POD["spec"]["containers"][0]["env"]),
        ("env", [{"$patch": "replace"}, {"name": "C", "value": "4"}], [{"name": "C", "value": "4"}]),
        ("env", [{"name": "A", "$patch": "replace"}], [{"name": "A"}, {"name": "B", "value": "2"}]),
        ("ports", [{"containerPort": 8080, "hostPort": 1}], [{"name": "http", "containerPort": 8080, "hostPort": 1}]),
        (
            "ports",
            [{"containerPort": 9, "name": "x"}],
            [{"name": "http", "containerPort": 8080}, {"containerPort": 9, "name": "x"}],
        ),
        ("volumeMounts", [{"mountPath": "/tmp", "name": "disk"}], [{"name": "disk", "mountPath": "/tmp"}]),
        ("command", ["sh"], ["sh"]),
    ],
)
def test_a_list_is_merged_by_its_key_or_replaced(field: str, patch: Any, expected: Any) -> None:
    assert merged(POD, of_function(**{field: patch}))["spec"]["containers"][0][field] == expected


def test_a_volume_changes_its_kind() -> None:
    patch = {"spec": {"volumes": [{"name": "tmp", "emptyDir": None, "persistentVolumeClaim": {"claimName": "c"}}]}}

    assert merged(POD, patch)["spec"]["volumes"] == [{"name": "tmp", "persistentVolumeClaim": {"claimName": "c"}}]


def test_an_object_is_deleted_or_replaced() -> None:
    assert "securityContext" not in merged(POD, {"spec": {"securityContext": {"$patch": "delete"}}})["spec"]
    replaced = merged(POD, {"spec": {"securityContext": {"$patch": "replace", "runAsUser": 0}}})
    assert replaced["spec"]["securityContext"] == {"runAsUser": 0}


@pytest.mark.parametrize(
    ("patch", "text"),
    [
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.podTemplate.spec.containers[0]: name is missing"),
        ({"spec": {"containers": ["x"]}}, "spec.podTemplate.spec.containers[0]: must be an object"),
        (
            {"spec": {"$patch": "remove"}},
            "spec.podTemplate.spec.$patch: 'remove' is not a directive",
        ),
        ({"spec": {"$retainKeys": ["a"]}}, "spec.podTemplate.spec.$retainKeys: unknown directive"),
    ],
)
def test_a_bad_patch_names_its_place(patch: Any, text: str) -> None:
    with pytest.raises(BadPatch) as caught:
        merged(POD, patch)
    assert text in str(caught.value)


NAMES = st.sampled_from(["a", "b", "c"])


def items(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    one = st.fixed_dictionaries(
        {"name": NAMES}, optional={"x": inner, "$patch": st.sampled_from(["delete", "replace"])}
    )
    return st.lists(one, max_size=3, unique_by=lambda item: item["name"])


LEAVES = st.one_of(st.none(), st.integers(0, 3), st.lists(st.integers(0, 3), max_size=2))
PATCHES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=3),
    lambda inner: st.fixed_dictionaries(
        {}, optional={"a": inner, "b": LEAVES, "env": items(inner), "volumes": items(LEAVES)}
    ),
    max_leaves=8,
)


@given(PATCHES, PATCHES)
def test_every_patch_says_what_will_be_and_changes_nothing_it_was_given(first: Any, second: Any) -> None:
    base = merged({}, first)
    before, given_patch = copy.deepcopy(base), copy.deepcopy(second)

    once = merged(base, second)

    assert merged(once, second) == once
    assert merged(base, {}) == base == before
    assert second == given_patch
    assert is_plain(once)


def is_plain(value: Any) -> bool:
    """No directive is left, no null, and no two items of a list have one key."""
    if isinstance(value, dict):
        return all(
            not name.startswith("$") and inside is not None and is_plain(inside) and has_single_keys(name, inside)
            for name, inside in value.items()
        )
    return not isinstance(value, list) or all(is_plain(inside) for inside in value)


def has_single_keys(name: str, value: Any) -> bool:
    if name not in MERGE_KEYS or not isinstance(value, list):
        return True
    return len({item[MERGE_KEYS[name]] for item in value}) == len(value)
