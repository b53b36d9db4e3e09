"""Resources of files become the objects to apply to a cluster."""

from pathlib import Path
from typing import Any

import pytest

from kubeirq.manifests.loading import load
from kubeirq.on_cluster.bundle import missing_functions, objects_of, wrong_namespaces
from kubeirq.on_cluster.resources import kinds_in

HEAD = "apiVersion: kubeirq.dev/v1\nkind: Function\nmetadata: {name: pay}\nspec:\n"
CRON = """---
apiVersion: kubeirq.dev/v1
kind: CronTrigger
metadata: {name: tick}
spec: {at: "2030-01-01T00:00:00Z", function: pay}
"""
SECRET = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: hush}\nstringData: {a: é}\n"


def bundled(folder: Path, text: str, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    (folder / "app.yaml").write_text(text)
    resources, problems = load([folder / "app.yaml"], namespace="shop", complete=False)
    assert problems == []
    objects, problems = objects_of(resources, **options)
    return objects, [f"{problem.field}: {problem.message}" for problem in problems]


@pytest.mark.parametrize(
    ("files", "source", "wanted"),
    [
        ({"pay.py": "x"}, "{path: pay.py}", {"inline": "x"}),
        ({"other.py": "x"}, "{path: other.py}", {"files": {"other.py": "x"}}),
        ({"code/pay.py": "x"}, "{path: code}", {"inline": "x"}),
        ({"code/pay.py": "x", "code/a/b.py": ""}, "{path: code}", {"files": {"pay.py": "x", "a/b.py": ""}}),
        (
            {"pay.py": "x", "lib/m.py": "y"},
            "{path: pay.py, include: [lib]}",
            {"files": {"pay.py": "x", "lib/m.py": "y"}},
        ),
        ({}, "{inline: x}", {"inline": "x"}),
        ({}, "{image: 'mine:1'}", {"image": "mine:1"}),
    ],
)
def test_files_become_part_of_the_resource(
    tmp_path: Path, files: dict[str, str], source: str, wanted: dict[str, Any]
) -> None:
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    ((found,), problems) = bundled(tmp_path, f"{HEAD}  source: {source}\n  timeoutSeconds: 5\n")
    assert (found["spec"], problems) == ({"source": wanted, "timeoutSeconds": 5}, [])


def test_each_object_has_only_json_types_and_comes_after_the_objects_that_it_refers_to(tmp_path: Path) -> None:
    (tmp_path / "needs.txt").write_text("six\n")
    dated = "  podTemplate: {metadata: {annotations: {since: 2026-01-01}}}\n"
    objects, _ = bundled(
        tmp_path, f"{HEAD}{dated}  source: {{inline: x}}\n  dependenciesPath: needs.txt\n{CRON}{SECRET}"
    )
    assert [found["kind"] for found in objects] == ["Secret", "Function", "CronTrigger"]
    assert {found["metadata"]["namespace"] for found in objects} == {"shop"}
    assert objects[0]["data"] == {"a": "w6k="} and objects[0]["type"] == "Opaque"
    assert objects[1]["spec"]["dependencies"] == "six\n"
    assert objects[1]["spec"]["podTemplate"] == {"metadata": {"annotations": {"since": "2026-01-01"}}}
    assert objects[2]["spec"] == {"at": "2030-01-01T00:00:00Z", "function": "pay"}
    objects, _ = bundled(tmp_path, HEAD + "  source: {inline: x}\n", with_namespace=False)
    assert objects[0]["metadata"] == {"name": "pay"}


def test_binary_and_large_files_are_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "logo.png").write_bytes(b"\xff\xfe")
    _, (problem,) = bundled(tmp_path, HEAD + "  source: {path: code}\n")
    assert problem.startswith("spec.source: 'logo.png' is not text") and "image" in problem
    (tmp_path / "code" / "logo.png").write_text("x" * 921_601)
    _, (problem,) = bundled(tmp_path, HEAD + "  source: {path: code}\n")
    assert problem.startswith("spec.source: 900 KiB") and "url" in problem and "image" in problem


def test_missing_functions_and_wrong_namespaces_are_found(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(CRON)
    resources, _ = load([tmp_path / "app.yaml"], namespace="shop", complete=False)
    assert list(missing_functions(resources, {("shop", "pay")})) == []
    (problem,) = missing_functions(resources, {("shop", "play"), ("other", "pay")})
    assert problem.message == "no Function 'pay' in these files, nor in namespace shop; did you mean 'play'?"
    assert list(wrong_namespaces(resources, "shop")) == []
    (problem,) = wrong_namespaces(resources, "stage")
    assert problem.field == "metadata.namespace"


def test_kinds_of_the_kubeirq_category_are_found_in_every_api_group() -> None:
    def version(name: str, category: str, *kinds: str) -> dict[str, Any]:
        resources = [
            {"resource": f"{kind.lower()}s", "responseKind": {"kind": kind}, "categories": [category]} for kind in kinds
        ]
        return {"version": name, "resources": resources}

    discovery = {
        "items": [
            {"metadata": {"name": "apps"}, "versions": [version("v1", "all", "Deployment")]},
            {"metadata": {"name": "example.com"}, "versions": [version("v1", "kubeirq", "MoonTrigger")]},
            {
                "metadata": {"name": "kubeirq.dev"},
                "versions": [
                    version("v1", "kubeirq", "HTTPTrigger", "Function"),
                    version("v1alpha1", "kubeirq", "Function"),
                ],
            },
        ]
    }
    kinds = kinds_in(discovery)
    assert [kind.name for kind in kinds] == ["Function", "HTTPTrigger", "MoonTrigger"]
    assert kinds[2].path("shop", "full") == "/apis/example.com/v1/namespaces/shop/moontriggers/full"
    assert kinds[0].path(None) == "/apis/kubeirq.dev/v1/functions"
