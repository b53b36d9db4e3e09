"""Loading manifests finds every problem of every file, with its place and the way out, and never raises."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeirq.manifests.loading import load

BROKEN = Path(__file__).resolve().parents[3] / "broken_manifests"


def test_ten_broken_manifests_name_every_problem_with_file_line_field_and_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(BROKEN.parent)
    assert len(list(BROKEN.glob("*.yaml"))) == 10
    _, problems = load([Path("broken_manifests")])
    assert [str(problem) for problem in problems] == (BROKEN / "expected.txt").read_text().splitlines()


def test_examples_have_no_problems() -> None:
    resources, problems = load([BROKEN.parents[1] / "examples" / "orders"])
    assert problems == []
    assert len(resources.functions) == 4
    assert {resource.kind for resource in resources.triggers} == {
        "HTTPTrigger",
        "CronTrigger",
        "KafkaTrigger",
        "NATSTrigger",
    }


def test_the_default_handler_has_the_name_of_the_function(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(
        "apiVersion: kubeirq.dev/v1\nkind: Function\nmetadata: {name: my-greeter}\nspec: {source: {inline: ''}}\n"
    )
    resources, problems = load([tmp_path])
    assert problems == []
    assert resources.functions[0].spec.handler == "my_greeter.handler"
    assert resources.functions[0].uid == "default/Function/my-greeter"


def test_secrets_are_read_from_documents_or_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "t.yaml").write_text(
        (BROKEN / "09-secret.yaml").read_text().replace("function: first", "url: http://x/")
    )
    (tmp_path / "secrets" / "kafka").mkdir(parents=True)
    (tmp_path / "secrets" / "kafka" / "password").write_text("p\n")
    assert load([tmp_path / "m"])[1] != []
    resources, problems = load([tmp_path / "m"], tmp_path / "secrets")
    assert problems == []
    assert resources.secrets["default", "kafka"] == {"password": "p"}


@pytest.mark.parametrize(
    ("env", "limit", "fits"),
    [
        ("", 8_388_608, True),
        ("", 8_388_609, False),
        ("env: [{name: FUNC_BODY_LIMIT, value: '20000000'}]", 12_000_000, True),
        ("env: [{name: FUNC_BODY_LIMIT, value: '1000'}]", 1_001, False),
        ("env: [{name: FUNC_BODY_LIMIT, valueFrom: {configMapKeyRef: {name: a, key: b}}}]", 12_000_000, True),
        ("envFrom: [{configMapRef: {name: a}}]", 12_000_000, True),
    ],
)
def test_a_body_limit_above_the_functions_own_is_a_problem(tmp_path: Path, env: str, limit: int, fits: bool) -> None:
    (tmp_path / "f.yaml").write_text(
        f"""
apiVersion: kubeirq.dev/v1
kind: Function
metadata: {{name: f}}
spec:
  source: {{inline: ''}}
  {env}
---
apiVersion: kubeirq.dev/v1
kind: HTTPTrigger
metadata: {{name: t}}
spec: {{function: f, bodyLimitBytes: {limit}}}
"""
    )
    problems = [str(problem) for problem in load([tmp_path])[1]]
    assert (problems == []) is fits, problems
    assert fits or "FUNC_BODY_LIMIT" in problems[0]


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "spec", "source", "topics", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.one_of(st.text(max_size=200), st.binary(max_size=100)))
@settings(max_examples=60, deadline=None)
def test_any_file_content_gives_problems_or_resources(text: str | bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_bytes(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
        load([path])


@given(
    st.sampled_from(["Function", "KafkaTrigger", "CronTrigger", "Secret", "Nothing"]),
    yaml_values,
    yaml_values,
)
@settings(max_examples=100, deadline=None)
def test_any_document_gives_problems_or_resources(kind: str, metadata: object, spec: object) -> None:
    import json

    document = {"apiVersion": "kubeirq.dev/v1", "kind": kind, "metadata": metadata, "spec": spec}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_text(json.dumps(document))
        load([path])


def test_the_name_of_a_function_must_begin_with_a_letter(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(
        "apiVersion: kubeirq.dev/v1\nkind: Function\nmetadata: {name: 1st}\nspec: {source: {inline: ''}}\n"
    )
    _, (problem,) = load([tmp_path])
    assert problem.field == "metadata.name"
    assert problem.message == (
        "'1st': a Function's name is lower-case letters, digits and -, a letter first, at most 63"
    )
