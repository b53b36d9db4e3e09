"""How the command line writes what it found: tables, YAML, JSON, ages. Pure."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import yaml

_CELL_CHARACTERS = 60


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Its lines; none for no rows."""
    if not rows:
        return []
    texts = [names, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(names))]
    return ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in texts]


def text_of(value: Any, output: str) -> str:
    """As `json` or `yaml`."""
    if output == "json":
        return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n"
    return yaml_of([value])


def yaml_of(documents: Sequence[Any]) -> str:
    """Texts of several lines as lines, so that code can be read."""
    return yaml.dump_all(documents, Dumper=_Readable, sort_keys=False, allow_unicode=True, width=120)


def age(at: float | None) -> str:
    """How long ago that was, in its largest unit. `at` is in seconds since the epoch."""
    if not at:
        return "-"
    seconds = max(0, int(time.time() - at))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def last_answer(answer: Mapping[str, Any] | None) -> str:
    """A function's last answer, as the admin API tells it."""
    if answer is None:
        return "-"
    return f"{answer['status']}, {answer['latencySeconds'] * 1000:.1f} ms, {age(answer['at'])} ago"


def many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else "-"
    text = " ".join(str(value).split())
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 1] + "…"


class _Readable(yaml.SafeDumper):
    """Without anchors; a text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)
