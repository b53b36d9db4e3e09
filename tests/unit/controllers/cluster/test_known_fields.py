"""A spec of a newer version runs without the fields that this one does not know, and the status names them."""

from typing import Any

import pytest
from pydantic import ValidationError

from controllers.cluster.known_fields import accepted, validated
from controllers.functions.code import UNKNOWN, spec_and_code_of, without_texts
from controllers.functions.resource import FunctionSpec
from controllers.triggers.trigger_cache import spec_of
from trigger_sources.http import HTTPTrigger


def trigger(**spec: Any) -> Any:
    return {"kind": "HTTPTrigger", "metadata": {"uid": "u"}, "spec": {"function": "f", **spec}}


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        ({"path": "/a"}, ()),
        ({"path": "/a", "colour": "red"}, ("spec.colour",)),
        ({"delivery": {"attempts": 2, "mood": 1}}, ("spec.delivery.mood",)),
        ({"path": "/a", "colour": {"deep": [1]}, "size": 1}, ("spec.colour", "spec.size")),
    ],
)
def test_a_trigger_runs_without_what_is_not_known(spec: Any, places: tuple[str, ...]) -> None:
    found, rejection, unknown = spec_of(trigger(**spec))
    assert found is not None
    assert rejection is None
    assert unknown == places
    condition = accepted(unknown)
    assert condition.status == "True"
    assert all(place in condition.message for place in places)


@pytest.mark.parametrize(
    "spec",
    [
        {"auth": {"bearer": {"tokens": [{"name": "s", "key": "t"}]}, "onlyFrom": "10.0.0.0/8"}},
        {"auth": {"oidc": {"issuer": "https://issuer.example"}}},
        {"path": "no slash", "colour": "red"},
    ],
)
def test_a_spec_that_would_serve_more_callers_or_is_wrong_is_invalid(spec: Any) -> None:
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
    for wrong in ({"suspend": True}, {"auth": {"colour": "red"}}):
        with_wrong = spec_of(trigger(**spec, **wrong))[1]
        assert with_wrong is not None
        assert with_wrong[0] == "Invalid", "the former spec must not run on"


def test_the_spec_that_is_read_stays_as_it_is() -> None:
    spec = {"function": "f", "colour": "red"}
    validated(HTTPTrigger, spec)
    assert spec == {"function": "f", "colour": "red"}
    with pytest.raises(ValidationError):
        validated(HTTPTrigger, {"colour": "red"})


def test_a_function_runs_without_what_is_not_known() -> None:
    source = {"inline": "def handler(event, context): ...", "signature": "x"}
    env = [{"name": "A", "value": "1", "secret": True}]
    function = {"metadata": {"name": "f"}, "spec": {"source": source, "env": env, "colour": "red"}}
    cached = without_texts(function)
    assert cached[UNKNOWN] == ("spec.colour", "spec.env[0].secret", "spec.source.signature")
    spec, code = spec_and_code_of(cached)
    assert spec.env[0].value == "1"
    known = {"source": {"inline": source["inline"]}, "env": [{"name": "A", "value": "1"}]}
    assert code == spec_and_code_of(without_texts({"metadata": {"name": "f"}, "spec": known}))[1]
    assert FunctionSpec.model_validate(known).env[0].name == "A"
