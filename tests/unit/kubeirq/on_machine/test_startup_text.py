"""The commands in the text at the start of `kubeirq dev` can be pasted."""

import pytest

from kubeirq.on_machine.startup_text import example_path, example_subject


@pytest.mark.parametrize(
    ("subject", "example"),
    [("jobs", "jobs"), ("jobs.>", "jobs.example"), ("a.*.b", "a.example.b"), ("*", "example"), ("a*.b", "a*.b")],
)
def test_a_subject_has_a_word_for_each_wildcard(subject: str, example: str) -> None:
    assert example_subject(subject) == example


@pytest.mark.parametrize(
    ("path", "example"),
    [("/x", "/x"), ("/orders/{id}", "/orders/id"), ("/{all...}", "/all"), ("/a/{b}/c/{d...}", "/a/b/c/d")],
)
def test_a_path_has_a_value_for_each_parameter(path: str, example: str) -> None:
    assert example_path(path) == example
