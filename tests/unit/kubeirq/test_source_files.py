"""The files that a function's source names."""

import json
from pathlib import Path

import pytest

from controllers.functions.resource import FunctionSpec
from kubeirq.manifests.loading import load
from kubeirq.source_files import MissingFiles, files_of, requirements_of


def spec_of(**fields: object) -> FunctionSpec:
    return FunctionSpec.model_validate(fields).named("pay")


def test_a_folder_gives_its_files_without_hidden_and_compiled_ones(tmp_path: Path) -> None:
    for path in ("pay.py", "shop/prices.py", ".env", ".git/HEAD", "__pycache__/pay.pyc", "shop/node_modules/x.js"):
        (tmp_path / "code" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / path).write_text(path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "money.py").write_text("")

    assert files_of(spec_of(source={"path": "code", "include": ["lib"]}), tmp_path) == {
        "pay.py": b"pay.py",
        "shop/prices.py": b"shop/prices.py",
        "lib/money.py": b"",
    }
    assert set(files_of(spec_of(source={"path": "."}), tmp_path / "code" / ".git")) == {"HEAD"}, "asked for by name"


def test_inline_code_becomes_the_handlers_module_and_files_keep_their_paths(tmp_path: Path) -> None:
    assert files_of(spec_of(source={"inline": "x"}, handler="a.b.go"), tmp_path) == {"a/b.py": b"x"}
    assert files_of(spec_of(source={"files": {"a/b.py": "é"}}), tmp_path) == {"a/b.py": "é".encode()}
    assert files_of(spec_of(source={"image": "mine:1"}), tmp_path) == {}


def test_a_missing_file_is_reported_with_its_field(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFiles, match=r"spec\.source\.path: .*nowhere: no such file"):
        files_of(spec_of(source={"path": "nowhere"}), tmp_path)
    with pytest.raises(MissingFiles, match=r"spec\.source\.path: .*empty: the folder has no files"):
        files_of(spec_of(source={"path": "empty"}), tmp_path)
    with pytest.raises(MissingFiles, match=r"spec\.dependenciesPath: .*none\.txt"):
        requirements_of(spec_of(source={"inline": ""}, dependenciesPath="none.txt"), tmp_path)


@pytest.mark.parametrize("name", ["path", "include", "dependenciesPath"])
@pytest.mark.parametrize("way", ["../../secret.txt", "link.txt", "folder-link/secret.txt", "folder"])
def test_a_path_that_leads_out_of_the_project_is_refused(tmp_path: Path, name: str, way: str) -> None:
    base = tmp_path / "project" / "manifests"
    (base / "folder").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("s3cr3t")
    (base / "f.py").write_text("")
    (base / "link.txt").symlink_to(tmp_path / "secret.txt")
    (base / "folder" / "inner.py").symlink_to(tmp_path / "secret.txt")
    (base / "folder-link").symlink_to(tmp_path)
    if name == "dependenciesPath":
        spec = {"source": {"path": "f.py"}, name: "folder/inner.py" if way == "folder" else way}
    else:
        spec = {"source": {"path": "f.py", **({"path": way} if name == "path" else {name: [way]})}}
    found = spec_of(**spec)
    with pytest.raises(MissingFiles, match="out of the project"):
        (files_of(found, base, tmp_path / "project"), requirements_of(found, base, tmp_path / "project"))
    (base / "f.yaml").write_text(
        json.dumps({"apiVersion": "kubeirq.dev/v1", "kind": "Function", "metadata": {"name": "f"}, "spec": spec})
    )
    (problem,) = load([tmp_path / "project"])[1]
    assert problem.field == ("spec." if name == "dependenciesPath" else "spec.source.") + name
    assert "out of the project" in problem.message


def test_a_folder_beside_the_manifests_is_in_the_project(tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "f.py").write_text("")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "money.py").write_text("")
    (tmp_path / "shared" / "link.py").symlink_to("money.py")
    found = spec_of(source={"path": "f.py", "include": ["../shared"]})
    assert set(files_of(found, tmp_path / "orders", tmp_path)) == {"f.py", "shared/money.py", "shared/link.py"}
    with pytest.raises(MissingFiles, match="give the command the folder that both are in"):
        files_of(found, tmp_path / "orders")


def test_links_that_lead_to_each_other_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.py").symlink_to("b.py")
    (tmp_path / "b.py").symlink_to("a.py")
    with pytest.raises(MissingFiles):
        files_of(spec_of(source={"path": "a.py"}), tmp_path)
