"""Nobody has to read a sentence twice: no clause stands where a noun should, in anything that a person reads.

It reads the pages, docstrings, comments and texts in Python, the chart's notes and the comments of its values. `-s`
prints each place, and how many there are by folder.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(300)  # it is all computation

MOST = 10  # in all: a few may be right where they stand

CHART = ("helm/kubeirq/templates/NOTES.txt", "helm/kubeirq/values.yaml")
LEFT_OUT = ("tests/unit/docs/test_plain_words.py",)  # it says itself what it looks for

_BEGINNING = re.compile(r"(?:wh(?:at|o|ose|oever|atever)|nothing that)\b(?!')", re.IGNORECASE)
_WITHIN = re.compile(r"\bis told (?:by|of|when|in)\b|\b(?:for|of|by|to) (?:who|whoever|whatever)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])[\"')*]*\s+")
_CODE = re.compile(r"`[^`]*`")

Text = tuple[int, str]  # its line, from 1


def riddles_in(text: str) -> Iterator[str]:
    """The sentences of a text that begin with a clause, or have one behind a preposition. Questions are fine."""
    for sentence in _SENTENCE.split(" ".join(_CODE.sub("it", text).split())):
        words = sentence.lstrip("\"'(*_>- ")
        is_riddle = _BEGINNING.match(words) is not None and " " in words and not words.rstrip("\"')*_").endswith("?")
        if is_riddle or _WITHIN.search(words):
            yield sentence


def texts_of(file: Path) -> Iterator[Text]:
    text = file.read_text()
    match file.suffix:
        case ".py":
            yield from _strings(text)
            yield from _python_comments(text)
        case ".yaml":
            yield from _yaml_comments(text)
        case _:
            yield from _paragraphs(text)


def _strings(text: str) -> Iterator[Text]:
    """Docstrings and texts; an f-string is one text."""
    tree = ast.parse(text)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found = (part.value if isinstance(part, ast.Constant) else "it" for part in node.values)
            yield node.lineno, "".join(map(str, found))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            for line, paragraph in _paragraphs(node.value):
                yield node.lineno + line - 1, paragraph


def _python_comments(text: str) -> Iterator[Text]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    yield from _joined((token.start[0], token.line[: token.start[1]], token.string) for token in comments)


def _yaml_comments(text: str) -> Iterator[Text]:
    lines = enumerate(text.splitlines(), 1)
    comments = ((number, re.match(r"(|.*?\s)(#.*)", line)) for number, line in lines)
    yield from _joined((number, found[1], found[2]) for number, found in comments if found)


def _joined(comments: Iterable[tuple[int, str, str]]) -> Iterator[Text]:
    """One text for comments on lines that follow each other and have nothing before them. An empty one ends it.

    `comments` are the line, what stands before the comment on it, and the comment.
    """
    begin, last, text = 0, 0, ""
    for number, before, comment in comments:
        line, is_alone = comment.lstrip("#! -"), not before.strip()
        if text and line and is_alone and number == last + 1:
            text = f"{text} {line}"
        else:
            yield begin, text
            begin, text = number, line
        last = number if is_alone else 0
    yield begin, text


def _paragraphs(text: str) -> Iterator[Text]:
    """Paragraphs, entries of lists, headings and cells of tables, without blocks of code and a chart's actions."""
    blank = re.compile(r"^```.*?^```$|\{\{.*?\}\}|<!--.*?-->", re.MULTILINE | re.DOTALL)
    text = blank.sub(lambda found: "\n" * found[0].count("\n"), text)
    begin, paragraph = 0, ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        stripped = line.strip()
        is_part = re.match(r"[-*] |\d+\. |#|\|", stripped) is not None
        if paragraph and (not stripped or is_part):
            yield begin, paragraph
            paragraph = ""
        if stripped.startswith(("|", "#")):
            for cell in stripped.strip("#| ").split(" | "):
                yield number, cell
        elif stripped:
            begin = begin if paragraph else number
            paragraph = f"{paragraph} {re.sub(r'^([-*]|[0-9]+[.]) ', '', stripped)}".strip()


def files() -> list[Path]:
    """All of the checkout but hidden folders: environments, caches, a fabric's state."""
    found = [*ROOT.rglob("*.md"), *ROOT.rglob("*.py"), *(ROOT / name for name in CHART)]
    names = {file: file.relative_to(ROOT) for file in sorted(found)}
    return [
        file
        for file, name in names.items()
        if name.as_posix() not in LEFT_OUT and not any(part.startswith(".") for part in name.parts)
    ]


def test_sentences_are_plain() -> None:
    found = [
        (file.relative_to(ROOT), line, riddle)
        for file in files()
        for line, text in texts_of(file)
        for riddle in riddles_in(text)
    ]
    for file, line, riddle in found:
        print(f"{file}:{line}: {riddle[:160]}")
    by_folder = Counter(file.parts[0] if len(file.parts) > 1 else file.name for file, _, _ in found)
    for folder, count in by_folder.most_common():
        print(f"{count:5} {folder}")
    assert len(found) <= MOST


@pytest.mark.parametrize(
    "text",
    [
        "Who waits for an answer gets a 503.",
        "It is there. What is given up is a dead letter.",
        "what only one can have",
        "Nothing that was taken is lost.",
        "Whoever comes first has it.",
        "It is told by its own last words.",
        "A fair answer for who asks.",
    ],
)
def test_a_riddle_is_found(text: str) -> None:
    assert list(riddles_in(text)) != []


@pytest.mark.parametrize(
    "text",
    [
        "What does it mean?",
        "A caller that is waiting gets a 503.",
        "It shows what is wrong.",
        "`What` is a name.",
        "Whole files are read.",
        "Nothing is lost.",
        "who",
    ],
)
def test_a_plain_sentence_is_left_alone(text: str) -> None:
    assert list(riddles_in(text)) == []


def test_texts_are_found_where_people_read_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Head\n\nOne\ntwo.\n\n- an entry\n  of a list\n\n| a | b |\n\n```python\nnot this\n```\n")
    assert list(texts_of(page)) == [(1, "Head"), (3, "One two."), (6, "an entry of a list"), (9, "a"), (9, "b")]
    module = tmp_path / "module.py"
    module.write_text('"""Doc.\n\nMore."""\n\n# one\n# two\nx = f"so {1} it"\n')
    assert [text for _, text in texts_of(module) if text] == ["Doc.", "More.", "so it it", "one two"]
    values = tmp_path / "values.yaml"
    values.write_text("# About\n# it.\na: 1   # a note\n")
    assert [text for _, text in texts_of(values) if text] == ["About it.", "a note"]
