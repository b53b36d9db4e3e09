"""Loading manifests finds every problem of every file, with its place and the way out, and never raises."""

import tempfile
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeirq.manifests.loading import load
from kubeirq.on_cluster.bundle import objects_of
from trigger_sources import plugins
from trigger_sources.registry import GROUP

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


FOREIGN = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: kubeirq.dev/v1
kind: Function
metadata: {name: f}
spec: {source: {inline: ''}}
"""


def test_objects_of_other_programs_in_a_folder_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(FOREIGN)
    (tmp_path / "kustomization.yaml").write_text("resources: [app.yaml]\n")
    resources, problems = load([tmp_path])
    assert problems == []
    assert [found.name for found in resources.functions] == ["f"]
    assert resources.foreign == [f"Deployment at {tmp_path}/app.yaml:2", f"Service at {tmp_path}/app.yaml:6"]
    _, problems = load([tmp_path / "app.yaml"])  # someone who names the file wants all of it
    assert [problem.field for problem in problems] == ["kind", "kind"]


@pytest.mark.parametrize(
    ("version", "kind"),
    [("v1", "Secrt"), ("kubeirq.dev/v1", "Functon"), ("kubeless.io/v1beta1", "Function"), ("v1", "HTTPTriger")],
)
def test_a_mistyped_kind_in_a_folder_is_still_a_problem(tmp_path: Path, version: str, kind: str) -> None:
    (tmp_path / "a.yaml").write_text(f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{}}\n")
    assert load([tmp_path])[1] != []


def test_the_items_of_a_list_are_resources_with_their_own_lines(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: List\nitems:\n"
        "- apiVersion: kubeirq.dev/v1\n  kind: Function\n  metadata: {name: f}\n  spec: {source: {inline: ''}}\n"
        "- apiVersion: kubeirq.dev/v1\n  kind: CronTrigger\n  metadata: {name: t}\n  spec:\n    function: f\n"
        "    schedule: nonsense\n"
    )
    resources, problems = load([tmp_path / "a.yaml"])
    assert [(found.name, found.line) for found in resources.found] == [("f", 4)]
    assert [(problem.line, problem.field) for problem in problems] == [(11, "spec")]


def test_every_secret_and_config_map_that_kubectl_takes_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: Secret\nimmutable: true\nmetadata: {name: s}\ntype: kubernetes.io/tls\n"
        "data:\n  wrapped: |\n    aGVs\n    bG8=\n  bytes: //4=\n  nothing:\nstringData: {plain: text}\n"
        "---\napiVersion: v1\nkind: ConfigMap\nimmutable: true\nmetadata: {name: c}\n"
        "data: {a: b}\nbinaryData: {raw: //4=}\n"
    )
    resources, problems = load([tmp_path])
    assert problems == []
    assert resources.secrets["default", "s"] == {
        "wrapped": "hello", "bytes": "\udcff\udcfe", "nothing": "", "plain": "text",
    }  # fmt: skip
    assert resources.config_maps["default", "c"] == {"a": "b", "raw": "\udcff\udcfe"}
    secret, config_map = objects_of(resources)[0]
    assert secret["data"] == {"wrapped": "aGVsbG8=", "bytes": "//4=", "nothing": "", "plain": "dGV4dA=="}
    assert (secret["immutable"], config_map["immutable"]) == (True, True)
    assert (config_map["data"], config_map["binaryData"]) == ({"a": "b"}, {"raw": "//4="})


@pytest.mark.parametrize(
    ("kind", "part", "place"),
    [
        ("Secret", "data: [a, b]", "data"),
        ("Secret", "stringData: text", "stringData"),
        ("ConfigMap", "data: 5", "data"),
        ("ConfigMap", "binaryData: [a]", "binaryData"),
        ("ConfigMap", "data: {a: 5}", "data.a"),
        ("Secret", "data: {a: 'not base64'}", "data.a"),
    ],
)
def test_data_of_another_shape_is_a_problem(tmp_path: Path, kind: str, part: str, place: str) -> None:
    (tmp_path / "a.yaml").write_text(f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: s}}\n{part}\n")
    (problem,) = load([tmp_path])[1]
    assert (problem.line, problem.field) == (4, place)


@pytest.mark.parametrize("annotations", ["[a, b]", "text", "5"])
def test_annotations_of_another_shape_are_a_problem(tmp_path: Path, annotations: str) -> None:
    (tmp_path / "a.yaml").write_text(
        f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: s\n  annotations: {annotations}\n"
    )
    (problem,) = load([tmp_path])[1]
    assert (problem.line, problem.field) == (5, "metadata.annotations")


def test_a_plugin_that_cannot_be_loaded_is_a_problem_of_its_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("BrokenTrigger", "nowhere_at_all:BrokenTrigger", GROUP)
    found = [*entry_points(group=GROUP), point]

    def points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [one for one in found if one.group == group and name in (None, one.name)]

    monkeypatch.setattr(plugins, "entry_points", points)
    (tmp_path / "a.yaml").write_text(
        "apiVersion: kubeirq.dev/v1\nkind: BrokenTrigger\nmetadata: {name: t}\nspec: {function: f}\n"
    )
    (problem,) = load([tmp_path])[1]
    assert str(problem) == (
        f"{tmp_path}/a.yaml:2: kind: trigger kind 'BrokenTrigger': nowhere_at_all:BrokenTrigger cannot be loaded: "
        "ModuleNotFoundError(\"No module named 'nowhere_at_all'\"); mend or uninstall the package that has it"
    )


@pytest.mark.parametrize("value", ["* * * * *", "@hourly", "`x`", "%x", "a: b: c"])
def test_a_value_that_has_to_be_quoted_says_so(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.yaml").write_text(f"schedule: {value}\n")
    (problem,) = load([tmp_path])[1]
    assert problem.message.startswith("invalid YAML: ")
    assert problem.message.endswith("; quote the value, as YAML gives one of its characters a meaning of its own")


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("spec:\n  function: a\n   path: /x\n", 3, "is indented deeper than the field before it"),
        ("spec:\n  function: a\n   nested:\n    x: 1\n", 3, "is indented deeper than the field before it"),
        ("spec:\n  filter: a: b\n", 2, "quote the value"),
        ("spec:\n  function: a\n  filter: a: b\n", 3, "quote the value"),
    ],
)
def test_a_field_in_the_wrong_column_is_told_from_a_value_that_needs_quotes(
    text: str, line: int, hint: str, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    (problem,) = load([tmp_path])[1]
    assert (problem.line, hint in problem.message) == (line, True), problem
