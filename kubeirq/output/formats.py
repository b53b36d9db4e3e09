"""Formats values for the terminal: tables, YAML, JSON, ages, counts. Pure but for the clock of `age`."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import yaml

_CELL_CHARACTERS = 60
_LEAST_CHARACTERS = 20  # of the last column, however narrow the terminal is


def table_lines(names: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None = None) -> list[str]:
    """The lines of a table; none if there are no rows. With a width, the last column is cut to fit in."""
    if not rows:
        return []
    # The first column names the row, to be pasted, and the last one may be an error: both stay whole
    texts = [names, *([_text(row[0]), *map(_cell, row[1:-1]), *map(_text, row[1:][-1:])] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(names))]
    if width is not None:
        left = max(_LEAST_CHARACTERS, width - sum(widths[:-1]) - 2 * (len(widths) - 1))
        texts = [[*row[:-1], row[-1] if len(row[-1]) <= left else row[-1][: left - 1] + "…"] for row in texts]
        widths[-1] = min(widths[-1], left)
    return ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in texts]


def to_text(value: Any, output: str) -> str:
    """The value as `json` or `yaml`."""
    if output == "json":
        return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n"
    return to_yaml([value])


def to_yaml(documents: Sequence[Any]) -> str:
    """YAML that shows a text of several lines, such as code, as a block."""
    return yaml.dump_all(documents, Dumper=_ReadableDumper, sort_keys=False, allow_unicode=True, width=120)


def age(at: float | None) -> str:
    """The time since `at` (seconds since the epoch) for a table, as kubectl has it: `90s`, `3m5s`, `45m`, `2d3h`."""
    if not at:
        return "-"
    seconds = max(0, int(time.time() - at))
    for length, unit, only, lower_length, lower_unit in _AGES:
        if seconds >= 2 * length:
            count, rest = divmod(seconds, length)
            lower = rest // lower_length
            return f"{count}{unit}{lower}{lower_unit}" if count < only and lower else f"{count}{unit}"
    return f"{seconds}s"


_AGES = ((86_400, "d", 8, 3_600, "h"), (3_600, "h", 8, 60, "m"), (60, "m", 10, 1, "s"))


def span(at: float) -> str:
    """The time since `at` in a sentence: `12 seconds`, `3 minutes 5 seconds`, `2 days 3 hours`."""
    seconds = max(0, int(time.time() - at))
    lengths = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
    for number, (unit, length) in enumerate(lengths):
        if seconds >= length:
            count, rest = divmod(seconds, length)
            lower_unit, lower_length = lengths[min(number + 1, 3)]
            lower = rest // lower_length if number < 3 else 0
            return counted(count, unit) + (f" {counted(lower, lower_unit)}" if lower else "")
    return "0 seconds"


def ago(at: float) -> str:
    """`09:31:35, 3 minutes 5 seconds ago`; with the date, if that was another day."""
    return f"{clock(at)}, {span(at)} ago"


def clock(at: float) -> str:
    """`09:31:35`; with the date, if that was another day."""
    then, now = time.localtime(at), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", then)


def last_answer(answer: Mapping[str, Any] | None, since: Callable[[float], str] | None = None) -> str:
    """A function's last answer, from the fields that the admin API gives. `since` puts its age into words."""
    if answer is None:
        return "-"
    return f"{answer['status']}, {answer['latencySeconds'] * 1000:.1f} ms, {(since or span)(answer['at'])} ago"


def last_try(flow: Mapping[str, Any]) -> str:
    """The problem of a flow that is not ready, or else the newer one of its last answer and its last error.

    Events that the source lost come first.
    """
    ready = next((found for found in flow["conditions"] if found["type"] == "Ready"), None)
    if ready is not None and ready["status"] != "True" and ready["message"]:
        return str(ready["message"]).splitlines()[0]
    answer, error_at = flow["lastAnswer"], flow.get("lastErrorAt")
    count = flow.get("counters", {}).get("lost", 0)
    lost = f"lost {counted(count, 'event')}; " if count else ""
    if not flow["lastError"] or not error_at or (answer is not None and answer["at"] >= error_at):
        return lost + last_answer(answer, age)
    return f"{lost}{flow['lastError'].strip().splitlines()[0]}, {age(error_at)} ago"


def counted(count: int, thing: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else "-"
    return " ".join(str(value).split())


def _cell(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 1] + "…"


class _ReadableDumper(yaml.SafeDumper):
    """Writes no anchors, and a text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_ReadableDumper.add_representer(str, _represent_text)
