"""The reference parts of docs/, as Markdown tables made from the models and the commands. Pure but for `main`.

`python -m kubeirq.reference docs` writes them between the marks of the pages in that folder.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from controllers.definitions.admission import details, shorts_of
from controllers.definitions.schemas import Schema, structural
from controllers.functions.resource import FunctionSpec
from trigger_sources.registry import source_of
from trigger_sources.source import TriggerSource

Option = tuple[str, str, str]  # as it is written, its default, its help

_PART = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ELSEWHERE = {  # fields whose own fields are not listed, and their meaning
    "envFrom": "Every key of a ConfigMap (`configMapRef`) or Secret (`secretRef`) as a variable, as in a container",
    "resources": "`requests` and `limits`, as in a container",
    "reply.kafka.security": "The fields of a KafkaTrigger's [`security`](kafka.md#fields)",
    "reply.nats.security": "The fields of a NATSTrigger's [`security`](nats.md#fields)",
}
_SHARED_BY = 5  # an option of this many commands stands in a table of its own


def filled(page: str, commands: click.Group) -> str:
    """The page with each of its generated parts as it is now. Raises KeyError for a part that is not known."""
    return _PART.sub(lambda found: f"{found[1]}\n{part(found['name'], commands)}\n{found[3]}", page)


def part(name: str, commands: click.Group) -> str:
    """The tables of one part: a kind's fields, `common` ones, `commands`, `options` or `shared-options`."""
    match name:
        case "commands":
            return _table(("command", "meaning"), _command_rows(commands))
        case "options":
            return _table(("command", "option", "default", "meaning"), _option_rows(commands))
        case "shared-options":
            return _table(("option", "default", "meaning"), sorted(_shared_options(commands)))
        case "common":
            found = _properties(TriggerSource)
            return _fields({**{short: found[short] for short in shorts_of(TriggerSource)}, **found}, ())
        case "Function":
            return _fields(_properties(FunctionSpec), structural(FunctionSpec, details).get("required", ()))
        case _:
            return own_fields(source_of(name))


def own_fields(source: type[TriggerSource]) -> str:
    """The fields of a kind that not every trigger has, and `ordering` with the kind's own default."""
    schema, shared = structural(source, details), _properties(TriggerSource)
    own = {name: found for name, found in schema["properties"].items() if name not in shared}
    ordering = {**shared["ordering"], "default": source.default_ordering}
    return _fields({**own, "ordering": ordering}, schema.get("required", ()))


# --- fields


def _properties(model: Any) -> dict[str, Schema]:
    found: dict[str, Schema] = structural(model, details)["properties"]
    return found


def _fields(properties: dict[str, Schema], required: Sequence[str]) -> str:
    rows = [row for name, found in properties.items() for row in _field_rows(name, found, name in required)]
    return _table(("field", "type", "default", "meaning"), rows)


def _field_rows(place: str, schema: Schema, is_required: bool) -> Iterator[Sequence[str]]:
    """A row for the field, and one for each field within it."""
    default = "required" if is_required else _code(schema["default"]) if _has_default(schema) else ""
    meaning = _ELSEWHERE.get(place) or schema.get("description", "").removesuffix(".")
    yield f"`{place}`", _type(schema), default, meaning
    within = schema.get("items", schema) if schema.get("type") == "array" else schema
    if place in _ELSEWHERE or _is_reference(within):
        return
    below = f"{place}[]" if within is not schema else place
    for name, found in within.get("properties", {}).items():
        yield from _field_rows(f"{below}.{name}", found, name in within.get("required", ()))


def _has_default(schema: Schema) -> bool:
    return "default" in schema and not isinstance(schema["default"], dict)


def _type(schema: Schema) -> str:
    if "enum" in schema:
        return _or([_code(value) for value in schema["enum"]])
    if _is_reference(schema):
        return "`{name, key}`"
    match schema.get("type"):
        case "array":
            return f"list of {_plural(_type(schema['items']))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"{_plural(_type(schema['additionalProperties']))} by name"
        case "string":
            return "text"
        case "integer" | "number" as found:
            return f"{found}{_bounds(schema)}"
        case None:
            return "any"
        case other:
            return str(other)


def _is_reference(schema: Schema) -> bool:
    """Whether it names a key of a Secret or ConfigMap, and has nothing else."""
    return set(schema.get("properties", ())) == {"name", "key"}


def _plural(name: str) -> str:
    return {"text": "texts", "object": "objects", "any": "values"}.get(name, name)


def _bounds(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    found = []
    if least is not None:
        found.append(f"{'over' if schema.get('exclusiveMinimum') else 'from'} {_number(least)}")
    if most is not None:
        found.append(f"to {_number(most)}")
    return f" {' '.join(found)}" if found else ""


def _code(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower().replace('none', 'null')}`"
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _number(value: float) -> str:
    """With a space between thousands."""
    return f"{value:,g}".replace(",", " ") if abs(value) < 1e6 else f"{value:,.0f}".replace(",", " ")


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


# --- commands


def _command_rows(commands: click.Group) -> Iterator[Sequence[str]]:
    for words, command in _leaves(commands, "kubeirq"):
        arguments = [_argument(found) for found in command.params if isinstance(found, click.Argument)]
        yield f"`{' '.join([words, *arguments])}`", _first_sentences(command)


def _option_rows(commands: click.Group) -> Iterator[Sequence[str]]:
    shared = _shared_options(commands)
    for words, command in _leaves(commands, "kubeirq"):
        for found in _options_of(command):
            if found not in shared:
                yield f"`{words.removeprefix('kubeirq ')}`", *found


def _shared_options(commands: click.Group) -> set[Option]:
    every = sorted(found for _, command in _leaves(commands, "") for found in _options_of(command))
    return {found for found, same in groupby(every) if len(list(same)) >= _SHARED_BY}


def _leaves(command: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    for name, found in command.commands.items():
        yield from _leaves(found, f"{words} {name}".strip())


def _options_of(command: click.Command) -> Iterator[Option]:
    for found in command.params:
        if isinstance(found, click.Option) and not found.hidden:
            yield _written(found), _default_of(found), found.help or ""


def _written(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag or option.count:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {_or([f'`{choice}`' for choice in option.type.choices])}"
    return f"{names} `{option.metavar or option.type.name.upper()}`"


def _default_of(option: click.Option) -> str:
    if not option.show_default or option.default is None:
        return ""
    if option.is_flag:
        return f"`{option.opts[0] if option.default else option.secondary_opts[0]}`" if option.secondary_opts else ""
    return f"`{option.default}`"


def _argument(found: click.Argument) -> str:
    name = found.metavar or (found.name or "").upper()
    name = f"{name}…" if found.nargs == -1 else name
    return name if found.required or name.startswith("[") else f"[{name}]"


def _first_sentences(command: click.Command) -> str:
    """The first paragraph of its help."""
    return " ".join((command.help or "").partition("\n\n")[0].split())


# --- tables


def _table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Without what Markdown would take for the end of the cell, or for a tag."""
    return re.sub(r"[|<]", lambda found: f"\\{found[0]}", text)


def main(folder: Path, commands: click.Group) -> None:
    """Writes the parts of every page in the folder."""
    for page in sorted(folder.glob("*.md")):
        page.write_text(filled(page.read_text(), commands))


if __name__ == "__main__":
    from kubeirq.__main__ import commands

    main(Path(sys.argv[1]), commands)
