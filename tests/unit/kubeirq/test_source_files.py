"""The files that a function's source names."""

from pathlib import Path

import pytest

from controllers.functions.resource import FunctionSpec
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
