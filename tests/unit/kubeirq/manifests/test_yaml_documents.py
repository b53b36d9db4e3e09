"""YAML that is made to stop its reader gets an error with its line, in bounded time; every command reads it here."""

import time
from pathlib import Path

import pytest
import yaml

from kubeirq.manifests import yaml_documents
from kubeirq.manifests.loading import load
from kubeirq.manifests.yaml_documents import documents_of, value_of


def bomb(width: int, levels: int, *, merge: bool = False) -> str:
    """Each level repeats the one before it `width` times."""
    lines = ["a0: &a0 {x: y}" if merge else "a0: &a0 [x]"]
    for level in range(1, levels):
        repeated = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} " + (f"{{<<: [{repeated}]}}" if merge else f"[{repeated}]"))
    return "\n".join(lines)


HOSTILE = {
    "alias bomb": (bomb(9, 12), "its aliases repeat more than 100000 values"),
    "merge bomb": (bomb(9, 12, merge=True), "its aliases repeat more than 100000 values"),
    "chain of aliases": (bomb(1, 200), "with its aliases, it has more than 100 levels"),
    "recursive list": ("a: &a [1, *a]", "an alias stands for a value that contains the alias"),
    "recursive mapping": ("&a {spec: *a}", "an alias stands for a value that contains the alias"),
    "recursive key": ("&a [{*a : 1}]", "an alias stands for a value that contains the alias"),
    "deep flow lists": ("a: " + "[" * 100_000, "the document has more than 100 levels"),
    "deep flow mappings": ("a: " + "{x: " * 100_000, "the document has more than 100 levels"),
    "deep block lists": ("- " * 20_000 + "a", "the document has more than 100 levels"),
    "deep complex keys": ("? " * 20_000 + "a", "the document has more than 100 levels"),
    "long number": ("a: " + "1" * 500_000, "a number has more than 400 characters"),
    "long number of base 60": ("a: 1" + ":1" * 250_000, "a number has more than 400 characters"),
    "long hexadecimal number": ("a: 0x" + "f" * 500_000, "a number has more than 400 characters"),
    "wrong timestamp": ("a: !!timestamp soon", "a value does not fit its tag"),
    "wrong boolean": ("a: !!bool maybe", "a value does not fit its tag"),
    "wrong number": ("a: !!int ''", "a value does not fit its tag"),
    "wrong binary": ("a: !!binary é", "failed to convert base64 data"),
    "object of Python": ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
    "unhashable key": ("? [a]\n: b", "found unhashable key"),
}


@pytest.mark.parametrize(("text", "problem"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_yaml_is_a_problem_of_its_file_in_bounded_time(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "hostile.yaml").write_text(text)
    started = time.process_time()
    _, problems = load([tmp_path])
    assert time.process_time() - started < 20
    assert len(problems) == 1
    assert problem in problems[0].message


def test_a_file_with_too_many_values_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_documents, "_MAX_NODES", 1_000)
    (tmp_path / "long.yaml").write_text("a: [" + "1," * 1_001 + "]")
    assert "the file has more than 1000 values; split it" in load([tmp_path])[1][0].message


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("# " + "x" * (16 << 20))
    assert "the file is larger than 16 MiB; split it" in load([tmp_path])[1][0].message


def test_aliases_and_merge_keys_of_people_work() -> None:
    (node,) = documents_of("base: &base {a: 1}\nlist: [*base, *base]\nmore: {<<: *base, b: 2}\n")
    assert value_of(node) == {"base": {"a": 1}, "list": [{"a": 1}, {"a": 1}], "more": {"a": 1, "b": 2}}


def test_empty_documents_are_left_out() -> None:
    assert documents_of("---\n---\n# nothing\n---\n''\n") == []
    with pytest.raises(yaml.YAMLError):
        documents_of("a: [")


def test_a_folder_that_contains_itself_through_a_link_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(
        "apiVersion: kubeirq.dev/v1\nkind: Function\nmetadata: {name: f}\nspec: {source: {inline: ''}}\n"
    )
    (tmp_path / "one").symlink_to(tmp_path)
    (tmp_path / "two").symlink_to(tmp_path)
    resources, problems = load([tmp_path])
    assert (len(resources.functions), problems) == (1, [])
