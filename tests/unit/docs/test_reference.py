"""The generated parts of the pages are what the models and commands say now, and every field has a meaning."""

import re
from pathlib import Path

import pytest

from kubeirq.__main__ import commands
from kubeirq.reference import filled, part

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted((ROOT / "docs").glob("*.md"))
KINDS = ("Function", "common", "KafkaTrigger", "NATSTrigger", "CronTrigger", "HTTPTrigger")
COMMANDS = ("commands", "options", "shared-options")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_generated_parts_are_up_to_date(page: Path) -> None:
    assert page.read_text() == filled(page.read_text(), commands), "say: make docs"


def test_every_part_stands_in_one_page() -> None:
    found = [name for page in PAGES for name in re.findall(r"<!-- generated: ([\w-]+) -->", page.read_text())]
    assert sorted(found) == sorted((*KINDS, *COMMANDS))


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_type_and_a_meaning(kind: str) -> None:
    rows = [line.strip("| ").split(" | ") for line in part(kind, commands).splitlines()[2:]]
    assert len(rows) > 8
    for row in rows:
        assert len(row) == 4, row
        field, type_, _, meaning = row
        assert type_.strip(), field
        assert len(meaning.strip()) >= 5, field


def test_a_field_of_a_list_or_an_object_has_a_row_of_its_own_and_a_reference_has_none() -> None:
    table = part("HTTPTrigger", commands)
    assert "| `auth.basic.password` | `{name, key}` |  | That user's password |" in table
    assert "| `auth.bearer.tokens` | list of `{name, key}` | required |" in table
    assert "| `expose.httpRoute.parentRefs[].port` | integer from 1 to 65 535 |" in table
    assert "auth.basic.password." not in table


def test_a_kind_shows_its_own_default_of_ordering_and_no_other_field_that_all_share() -> None:
    assert "| `ordering` | `key`, `partition` or `none` | `key` |" in part("KafkaTrigger", commands)
    assert "| `ordering` | `key`, `partition` or `none` | `none` |" in part("NATSTrigger", commands)
    assert "`concurrency`" not in part("KafkaTrigger", commands)
    assert "| `delivery.maxAgeSeconds` | number over 0 | 3 600 |" in part("common", commands)


def test_an_option_that_many_commands_share_stands_in_one_table() -> None:
    assert "`--system-namespace`" in part("shared-options", commands)
    assert "`--system-namespace`" not in part("options", commands)
    assert "| `deploy` | `--wait`, `--no-wait` | `--wait` |" in part("options", commands)


def test_a_part_that_is_not_known_is_an_error() -> None:
    with pytest.raises(KeyError):
        filled("<!-- generated: Nothing -->\n<!-- end -->", commands)
