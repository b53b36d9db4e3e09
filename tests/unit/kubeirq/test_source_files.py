"""Which files a function's source means."""

from pathlib import Path

import pytest

from controllers.functions.resource import FunctionSpec
from kubeirq.source_files import NoFiles, files_of, requirements_of


def spec_of(**fields: object) -> FunctionSpec:
    return FunctionSpec.model_validate(fields).named("pay")


def test_a_folder_is_its_files_without_what_is_hidden_or_compiled(tmp_path: Path) -> None:
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


def test_inline_is_the_handlers_module_and_files_are_themselves(tmp_path: Path) -> None:
    assert files_of(spec_of(source={"inline": "x"}, handler="a.b.go"), tmp_path) == {"a/b.py": b"x"}
    assert files_of(spec_of(source={"files": {"a/b.py": "é"}}), tmp_path) == {"a/b.py": "é".encode()}
    assert files_of(spec_of(source={"image": "mine:1"}), tmp_path) == {}


def test_what_is_not_there_is_said_with_its_field(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoFiles, match=r"spec\.source\.path: .*nowhere: no such file"):
        files_of(spec_of(source={"path": "nowhere"}), tmp_path)
    with pytest.raises(NoFiles, match=r"spec\.source\.path: .*empty: no file is in it"):
        files_of(spec_of(source={"path": "empty"}), tmp_path)
    with pytest.raises(NoFiles, match=r"spec\.dependenciesPath: .*none\.txt"):
        requirements_of(spec_of(source={"inline": ""}, dependenciesPath="none.txt"), tmp_path)
