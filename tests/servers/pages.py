"""The fenced blocks of a page in docs, and what stands around them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    section: str = ""  # the heading above it
    before: str = ""  # the text between the block before, or the heading, and it

    @property
    def file(self) -> str | None:
        """The name that its first line gives it: `# greet.py`, `# app/greet.py`."""
        found = re.match(r"(?:#|//) ([\w./-]+\.\w+)\n", self.text)
        return found[1] if found else None

    @property
    def is_manifest(self) -> bool:
        return self.language == "yaml" and re.search(r"^apiVersion: kubeirq\.dev/", self.text, re.MULTILINE) is not None

    def write(self, folder: Path) -> None:
        """The file that it is, at its place in the folder."""
        assert self.file is not None, self
        file = folder / self.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.text)


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    end, section = 0, ""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        *headings, before = re.split(r"^#+ (.*)\n", text[end : found.start()], flags=re.MULTILINE)
        section, end = headings[-1] if headings else section, found.end()
        yield Block(page, text[: found.start()].count("\n") + 1, found[1], found[2], section, before.strip())
