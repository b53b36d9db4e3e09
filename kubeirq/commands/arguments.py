"""Arguments and options that several commands share, and how they print tables and keys."""

import base64
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click

from kubeirq.commands.open_fabric import complete_names
from kubeirq.fabric_client import Table
from kubeirq.output.formats import table_lines

OUTPUT = click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="The output format.",
)
TRIGGER = click.argument("trigger", shell_complete=complete_names("triggers"))
FUNCTION = click.argument("function", shell_complete=complete_names("functions"))
FUNCTION_OR_TRIGGER = click.argument(
    "name", metavar="FUNCTION|TRIGGER", shell_complete=complete_names("functions", "triggers")
)


def print_tables(tables: Sequence[Table], *, cut: bool = False) -> None:
    """Prints the tables that have rows, with an empty line between them.

    `cut`: in a terminal, long messages are cut to its width. A pipe gets all of them.
    """
    width = shutil.get_terminal_size().columns if cut and sys.stdout.isatty() else None
    written: list[list[Any]] = [lines for columns, rows in tables if (lines := table_lines(columns, rows, width))]
    click.echo("\n\n".join("\n".join(lines) for lines in written), nl=bool(written))


def decoded_key(encoded: str | None) -> str:
    """An event's key as text. A key that is not text stays in base64."""
    if encoded is None:
        return "-"
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return encoded
