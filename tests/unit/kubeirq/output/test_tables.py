"""A table fits into the terminal."""

from kubeirq.output.formats import table_lines


def test_the_last_column_is_cut_to_the_width_and_only_if_there_is_one() -> None:
    rows = [["a", "True", "-"], ["b", "False", "m" * 300]]
    lines = table_lines(["NAME", "READY", "MESSAGE"], rows, 60)
    assert max(map(len, lines)) == 60
    assert lines[2].endswith("m…")
    assert table_lines(["NAME", "READY", "MESSAGE"], rows)[2].endswith("m" * 300)


def test_a_narrow_terminal_leaves_something_of_the_message() -> None:
    (_, line) = table_lines(["NAME", "MESSAGE"], [["a" * 50, "m" * 300]], 40)
    assert line.endswith("m" * 19 + "…")
