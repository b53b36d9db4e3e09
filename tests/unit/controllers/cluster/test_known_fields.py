"""A spec of a newer version never runs without a field that may restrict, and the status names the field."""

from typing import Any

import pytest
from pydantic import ValidationError

from controllers.cluster.known_fields import IGNORABLE, accepted, not_ignorable, validated
from controllers.functions.code import UNKNOWN, InvalidFunction, spec_and_code_of, without_texts
from controllers.functions.resource import FunctionSpec
from controllers.triggers.trigger_cache import spec_of
from trigger_sources.http import HTTPTrigger


def trigger(**spec: Any) -> Any:
    return {"kind": "HTTPTrigger", "metadata": {"uid": "u"}, "spec": {"function": "f", **spec}}


NEWER = [
    ({"path": "/a", "colour": "red"}, ("spec.colour",)),
    ({"path": "/a", "allowedIPs": ["10.0.0.0/8"]}, ("spec.allowedIPs",)),
    ({"delivery": {"attempts": 2, "mood": 1}}, ("spec.delivery.mood",)),
    ({"path": "/a", "colour": {"deep": [1]}, "size": 1}, ("spec.colour", "spec.size")),
    (
        {"auth": {"bearer": {"tokens": [{"name": "s", "key": "t"}]}, "onlyFrom": "10.0.0.0/8"}},
        ("spec.auth.onlyFrom",),
    ),
]


def test_a_spec_that_this_version_knows_runs() -> None:
    found, rejection, unknown = spec_of(trigger(path="/a"))
    assert found is not None
    assert rejection is None
    assert unknown == ()


@pytest.mark.parametrize(("spec", "places"), NEWER)
def test_a_field_that_is_not_known_may_restrict_so_the_spec_does_not_run(spec: Any, places: tuple[str, ...]) -> None:
    found, rejection, unknown = spec_of(trigger(**spec))
    assert found is None
    assert rejection is not None
    assert rejection[0] == "UnknownField"
    assert unknown == ()
    assert all(place in rejection[1] for place in (*places, IGNORABLE))


@pytest.mark.parametrize(("spec", "places"), NEWER)
def test_a_trigger_runs_without_fields_that_the_definition_or_its_author_lists(
    spec: Any, places: tuple[str, ...]
) -> None:
    by_author = trigger(**spec)
    by_author["metadata"]["annotations"] = {IGNORABLE: ", ".join(places)}
    for found, rejection, unknown in (spec_of(trigger(**spec), frozenset(places)), spec_of(by_author)):
        assert found is not None
        assert rejection is None
        assert unknown == places
        condition = accepted(unknown)
        assert condition.status == "True"
        assert all(place in condition.message for place in places)


@pytest.mark.parametrize(
    ("unknown", "listed", "left"),
    [
        ("spec.env[12].note", {"spec.env[].note"}, False),
        ("spec.look.colour", {"spec.look"}, False),
        ("spec.look.colour", {"spec.look.shape", "spec.loo", "colour"}, True),
        ("spec.looks", {"spec.look"}, True),
        ("spec.look", set(), True),
    ],
)
def test_a_listed_field_stands_for_what_is_within_it(unknown: str, listed: set[str], left: bool) -> None:
    assert not_ignorable([unknown], listed) == ([unknown] if left else [])


@pytest.mark.parametrize(
    "spec",
    [
        {"path": "no slash", "colour": "red"},
        {"filter": "data.total >", "colour": "red"},
    ],
)
def test_a_spec_that_is_wrong_whatever_the_version_is_invalid(spec: Any) -> None:
    found, rejection, _ = spec_of(trigger(**spec))
    assert found is None
    assert rejection is not None
    assert rejection[0] == "Invalid"


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"answer": "stream"}, "spec.answer: 'stream' is not one of"),
        ({"answer": "stream", "colour": "red"}, "spec.answer: "),
        ({"concurrency": 10**9}, "spec.concurrency: "),
    ],
)
def test_a_value_that_is_not_known_is_told_apart_from_a_wrong_one(spec: Any, place: str) -> None:
    found, rejection, _ = spec_of(trigger(**spec))
    assert found is None
    assert rejection is not None
    assert rejection[0] == "UnknownValue"
    assert place in rejection[1]
    both = spec_of(trigger(**spec, path="no slash"))[1]
    assert both is not None
    assert both[0] == "Invalid"


def test_the_spec_that_is_read_stays_as_it_is() -> None:
    spec = {"function": "f", "colour": "red"}
    validated(HTTPTrigger, spec)
    assert spec == {"function": "f", "colour": "red"}
    with pytest.raises(ValidationError):
        validated(HTTPTrigger, {"colour": "red"})


def test_a_function_starts_no_spec_with_what_is_not_known_unless_it_is_ignorable() -> None:
    source = {"inline": "def handler(event, context): ...", "signature": "x"}
    env = [{"name": "A", "value": "1", "secret": True}]
    function = {"metadata": {"name": "f"}, "spec": {"source": source, "env": env, "colour": "red"}}
    cached = without_texts(function)
    assert cached[UNKNOWN] == ("spec.colour", "spec.env[0].secret", "spec.source.signature")
    with pytest.raises(
        InvalidFunction, match=r"spec\.colour, spec\.env\[0\]\.secret, spec\.source\.signature"
    ) as raised:
        spec_and_code_of(cached)
    assert raised.value.reason == "UnknownField"
    spec, code = spec_and_code_of(cached, {"spec.colour", "spec.env[].secret", "spec.source"})
    assert spec.env[0].value == "1"
    known = {"source": {"inline": source["inline"]}, "env": [{"name": "A", "value": "1"}]}
    assert code == spec_and_code_of(without_texts({"metadata": {"name": "f"}, "spec": known}))[1]
    assert FunctionSpec.model_validate(known).env[0].name == "A"
