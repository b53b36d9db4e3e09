"""The pages for contributors refer to files that exist, and the records of decisions are whole and listed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DECISIONS = ROOT / "docs" / "decisions"
RECORDS = sorted(DECISIONS.glob("0*.md"))
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", DECISIONS / "README.md", *RECORDS]
SECTIONS = ["Problem", "Decision", "Cost", "Where"]
OURS = {"controllers", "docs", "helm", "images", "kubeirq", "locks", "runtimes", "tests", "trigger_sources"}


def paths_in(text: str) -> list[str]:
    """The files and folders of the project that a page names between backticks; not patterns of names."""
    names = [name for name in re.findall(r"`([\w./-]+)`", text) if "/" in name]
    return [name for name in names if name.split("/")[0] in OURS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [path for path in paths_in(text) if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_record_names_what_its_files_have(record: Path) -> None:
    """`file` (`name`, `name`): each name stands in that file."""
    named = re.findall(r"`([\w./-]+\.py)`\s+\(((?:`\w+`(?:,\s+)?)+)\)", record.read_text())
    missing = [
        f"{path}: {name}"
        for path, names in named
        for name in re.findall(r"`(\w+)`", names)
        if name not in (ROOT / path).read_text()
    ]
    assert missing == []


def test_records_are_numbered_without_a_gap() -> None:
    assert [int(record.name[:4]) for record in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_record_has_its_sections_and_half_a_page(record: Path) -> None:
    text = record.read_text()
    assert text.startswith(f"# {int(record.name[:4])}. ")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert len(text.splitlines()) <= 40


def test_the_index_lists_every_record_with_its_title() -> None:
    rows = re.findall(r"^\| \[(\d+)\]\((.*)\) \| (.*) \|$", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    titles = [record.read_text().splitlines()[0].removeprefix("# ") for record in RECORDS]
    assert [(f"{number}. {title}", name) for number, name, title in rows] == [
        (title, record.name) for title, record in zip(titles, RECORDS, strict=True)
    ]
