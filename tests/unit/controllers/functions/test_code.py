"""A Function without its texts leads to the same objects as the whole Function, and takes little memory."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.functions.code import InvalidFunction, spec_and_code_of, without_texts
from controllers.functions.pod_template import Settings
from controllers.functions.resource import FunctionSpec
from controllers.functions.workload import objects_of

SETTINGS = Settings(runtime_image="runtime:1")
TEXT = st.text(max_size=30)
SOURCES = st.one_of(
    st.fixed_dictionaries({"inline": TEXT}),
    st.fixed_dictionaries({"files": st.dictionaries(st.sampled_from(["a.py", "b/c.py", "ü.py"]), TEXT, min_size=1)}),
    st.just({"image": "mine:1"}),
    st.just({"url": "https://example.com/code.zip", "sha256": "a" * 64}),
    st.just({"configMap": {"name": "code", "key": "a.py"}}),
)
DEPENDENCIES = st.sampled_from([None, "", "# none\n", "numpy", "numpy\n# and\nscipy"])


def function(source: Any, **spec: Any) -> dict[str, Any]:
    metadata = {
        "name": "invoice", "namespace": "shop", "uid": "u-1", "generation": 3, "labels": {"team": "a"},
        "resourceVersion": "7", "managedFields": [{"manager": "kubectl"}],
    }  # fmt: skip
    return {
        "apiVersion": "kubeirq.dev/v1",
        "kind": "Function",
        "metadata": metadata,
        "spec": {"source": source, **spec},
        "status": {"replicas": 1},
    }


@given(SOURCES, DEPENDENCIES)
def test_without_its_texts_the_objects_are_the_same_but_for_the_data_of_the_config_map(
    source: dict[str, Any], dependencies: str | None
) -> None:
    whole = function(source, **({} if dependencies is None else {"dependencies": dependencies}))
    before = json.dumps(whole)
    expected = objects_of(whole["metadata"], FunctionSpec.model_validate(whole["spec"]).named("invoice"), SETTINGS)
    for found in expected:
        if found["kind"] == "ConfigMap":
            del found["data"], found["immutable"]

    cached = without_texts(whole)
    spec, code = spec_and_code_of(cached)

    assert objects_of(cached["metadata"], spec, SETTINGS, code) == expected
    assert cached["status"] == whole["status"]
    assert json.dumps(whole) == before, "the object of the watch is not changed"


def test_other_code_has_another_identity_in_every_kind_of_source() -> None:
    sources: list[Any] = [{"inline": "a"}, {"inline": "b"}, {"files": {"invoice.py": "c"}}, {"files": {"a.py": "c"}}]
    specs = [function(source) for source in sources]
    specs += [function({"inline": "a"}, dependencies=name) for name in ("numpy", "scipy")]
    digests = [spec_and_code_of(without_texts(found))[1] for found in specs]
    assert len({found.digest for found in digests}) == len({found.config_map for found in digests}) == len(specs)


@pytest.mark.parametrize(
    "source",
    [
        {"inline": "x" * 900_000},
        {"files": {f"{number}.py": "x" * 100_000 for number in range(8)}},
        {"inline": "x" * 2_000_000},  # too large for a ConfigMap
    ],
)
def test_it_has_none_of_the_text(source: dict[str, Any]) -> None:
    assert len(json.dumps(without_texts(function(source, dependencies="numpy # " + "y" * 90_000)))) < 1_500


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (function({"inline": "x" * 2_000_000})["spec"], "1953 KiB of code and dependencies"),
        (function({"inline": "x", "image": "mine:1"})["spec"], "exactly one of path, inline"),
        (function({"inline": "x"}, runtime="cobol")["spec"], "spec.runtime: unknown runtime 'cobol'"),
        (None, "spec"),
    ],
)
def test_a_spec_that_is_not_valid_keeps_its_problem(spec: Any, problem: str) -> None:
    with pytest.raises(InvalidFunction, match=problem):
        spec_and_code_of(without_texts({**function({}), "spec": spec}))
