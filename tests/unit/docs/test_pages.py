"""The pages keep their skeleton, their examples are right, and their links, commands and variables exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from servers.pages import Block, blocks_of

from kubeirq.__main__ import commands
from kubeirq.manifests.loading import load
from trigger_sources.registry import source_of

ROOT = Path(__file__).resolve().parents[3]
DOCS = sorted((ROOT / "docs").glob("*.md"))
READMES = [ROOT / "README.md", *sorted((ROOT / "examples").rglob("README.md"))]
PAGES = [*DOCS, *READMES]
SKELETON = ["Example", "How it behaves", "Fields", "Troubleshooting", "See also"]
LONGEST_LINE = 100
CODE = "\n".join(
    file.read_text() for part in ("controllers", "kubeirq", "trigger_sources") for file in (ROOT / part).rglob("*.py")
)
OTHERS_REASONS = {"NotAllowedByListeners", "BackendNotFound"}  # a Gateway's
LEFT_OUT = {
    "app-guide": {"Fields"},
    "known-limits": {"Example", "Fields", "Troubleshooting"},
    "benchmarks": {"Fields"},
}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
MANIFESTS = [block for block in BLOCKS if block.is_manifest]


# --- the skeleton


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_a_page_has_the_skeleton(page: Path) -> None:
    found = re.findall(r"^## (.*)$", without_blocks(page.read_text()), re.MULTILINE)
    assert found == [name for name in SKELETON if name not in LEFT_OUT.get(page.stem, set())]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_a_page_begins_with_two_sentences(page: Path) -> None:
    title, intro = page.read_text().split("\n\n")[:2]
    assert title.startswith("# ")
    assert len(re.findall(r"[.!?](?=\s|$)", intro)) == 2, intro


@every_page
def test_lines_fit_a_terminal(page: Path) -> None:
    for line in without_blocks(page.read_text()).splitlines():
        if not line.startswith("|") and "://" not in line:
            assert len(line) <= LONGEST_LINE, line


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\(docs/([\w-]+)\.md", (ROOT / "README.md").read_text()))
    assert linked == {page.stem for page in DOCS}


# --- links


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(\s*([^)\s]+)\)", without_blocks(page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors_of(file), target


def anchors_of(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- examples


@pytest.mark.parametrize("block", MANIFESTS, ids=lambda block: f"{block.page.name}:{block.line}")
def test_every_manifest_passes_the_check(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the Python files of its page beside it. The first one of a page is whole: it needs nothing else."""
    if "kind: FolderTrigger" in block.text:
        install_the_plugin(tmp_path / "site", monkeypatch)
    folder = tmp_path / "example"
    folder.mkdir()
    for other in blocks_of(block.page):
        if other.language != "yaml" and other.file is not None:
            other.write(folder)
    manifest = folder / (block.file or "example.yaml")
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_text(block.text)
    is_first = block == next(found for found in MANIFESTS if found.page == block.page)
    resources, problems = load([manifest], complete=is_first and block.page.parent.name != "plugin")
    assert [str(problem) for problem in problems] == []
    assert resources.found


def install_the_plugin(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of a source, as pip would leave it."""
    metadata = site / "folder_source-0.1.dist-info"
    metadata.mkdir(parents=True)
    (site / "folder_source.py").write_text((ROOT / "examples" / "plugin" / "folder_source.py").read_text())
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: folder-source\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(
        "[kubeirq.trigger_sources]\nFolderTrigger = folder_source:FolderTrigger\n"
    )
    monkeypatch.syspath_prepend(site)
    source_of.cache_clear()


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language == "python"],
    ids=lambda block: f"{block.page.name}:{block.line}",
)
def test_every_piece_of_python_is_python(block: Block) -> None:
    compile(block.text, f"{block.page.name}:{block.line}", "exec")


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.file == "values.yaml"],
    ids=lambda block: f"{block.page.name}:{block.line}",
)
def test_every_value_is_one_of_the_chart(block: Block) -> None:
    known = yaml.safe_load((ROOT / "helm" / "kubeirq" / "values.yaml").read_text())
    for name, value in yaml.safe_load(block.text).items():
        assert name in known
        if isinstance(value, dict):
            assert value.keys() <= known[name].keys()


# --- commands


@every_page
def test_every_command_exists_with_its_options(page: Path) -> None:
    for words in commands_in(page):
        command: click.Command = commands
        path: list[str] = []
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name = words.pop(0)
            # `dead-letters list|show|…` and NAMES in capitals are forms of several commands
            if name.isupper() or "|" in name:
                break
            assert name in command.commands, f"kubeirq {' '.join([*path, name])}"
            command, path = command.commands[name], [*path, name]
        known = {"--help"} | {option for found in command.params for option in (*found.opts, *found.secondary_opts)}
        for word in words:
            if re.fullmatch(r"--?[a-z][a-z-]*", word) and not isinstance(command, click.Group):
                assert word in known, f"kubeirq {' '.join(path)} {word}"


def commands_in(page: Path) -> Iterator[list[str]]:
    """The words after `kubeirq` of each command line that the page shows, in a block or in a sentence."""
    lines = [line for block in blocks_of(page) if block.language == "console" for line in block.text.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", without_blocks(page.read_text()))
    for line in lines:
        for found in re.finditer(r"(?:^|[|;&(] ?)kubeirq (?P<rest>[^#|;&)]*)", line):
            yield shlex.split(found["rest"].replace("'", "").replace('"', "").replace("\\", ""))


@every_page
def test_every_target_of_make_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {name for line in targets for name in line.split()}
    for line in re.findall(r"(?:^|`)make ([a-z]+)\b", page.read_text(), re.MULTILINE):
        assert line in known


# --- variables


def test_the_runtime_contract_names_every_variable() -> None:
    code = "".join(file.read_text() for file in sorted((ROOT / "runtimes" / "python").rglob("*.py")))
    read = set(re.findall(r'"(FUNC_[A-Z_]+|MOD_NAME)"', code))
    said = set(re.findall(r"`(FUNC_[A-Z_]+|MOD_NAME)`", (ROOT / "docs" / "runtime-contract.md").read_text()))
    assert read == said


def test_the_page_of_clusters_names_every_variable_of_a_controller() -> None:
    sources = [file.read_text() for file in (ROOT / "controllers").rglob("*.py")]
    read = {name for text in sources for name in re.findall(r'"(KUBEIRQ_[A-Z_]+)"', text)}
    said = set(re.findall(r"`(KUBEIRQ_[A-Z_]+)`", (ROOT / "docs" / "kubernetes.md").read_text()))
    assert said <= read
    assert read - said <= {"KUBEIRQ_CODE_PATH", "KUBEIRQ_KUBELESS"}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_every_reason_of_a_condition_or_dead_letter_exists(page: Path) -> None:
    _, _, text = page.read_text().partition("## Troubleshooting")
    tables = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    for reason in re.findall(r"`((?:[A-Z][a-z]+){2,})`", tables):
        assert reason in OTHERS_REASONS or f'"{reason}"' in CODE, reason


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
