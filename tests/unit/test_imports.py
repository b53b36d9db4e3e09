"""No file imports itself through others: a circle could only be understood, moved or tested as a whole."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("trigger_sources", "controllers", "kubeirq")


def files_of(root: Path) -> dict[str, Path]:
    """Every module of the packages by its name."""
    found = {}
    for package in PACKAGES:
        for file in (root / package).rglob("*.py"):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(file: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules:
                    yield inner
                elif node.module in modules:
                    yield node.module


def circle_in(root: Path) -> str:
    """One circle, as `a → b → a`; nothing where there is none."""
    modules = files_of(root)
    imports = {name: set(imports_of(file, modules)) - {name} for name, file in modules.items()}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return " → ".join(reversed(error.args[1]))
    return ""


def test_no_file_imports_itself_through_others() -> None:
    assert circle_in(ROOT) == ""


@pytest.mark.parametrize(
    "back",
    [
        "from trigger_sources.one import a\n",
        "import trigger_sources.one\n",
        "def f():\n    from trigger_sources import one\n",
        "if TYPE_CHECKING:\n    from trigger_sources.one import A\n",
    ],
)
def test_a_circle_is_found_wherever_the_import_stands(tmp_path: Path, back: str) -> None:
    package = tmp_path / "trigger_sources"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from trigger_sources.two import b\n")
    (package / "two.py").write_text("b = 1\n")
    assert circle_in(tmp_path) == ""
    (package / "two.py").write_text(back)
    assert circle_in(tmp_path) in (
        "trigger_sources.one → trigger_sources.two → trigger_sources.one",
        "trigger_sources.two → trigger_sources.one → trigger_sources.two",
    )
