"""The commands that only read and write files: check, new, version."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubeirq.commands.arguments import OUTPUT
from kubeirq.commands.scaffold import AlreadyExists, function_files, source_files, write
from kubeirq.output.formats import counted, to_text
from trigger_sources.problems import Problem

if TYPE_CHECKING:
    from kubeirq.manifests.resources import Resources


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--secrets",
    type=click.Path(path_type=Path),
    help="A folder with Secrets: a subfolder for each Secret, with a file for each key.",
)
@OUTPUT
def check(paths: tuple[Path, ...], secrets: Path | None, output: str) -> None:
    """Check manifests and the code of functions for problems.

    Prints every problem with its file, line and field. PATHS are files and folders. Exit code 1 means that there are
    problems, or nothing to run.
    """
    from kubeirq.manifests.loading import load

    resources, problems = load(paths, secrets, thorough=True)
    if not problems and not resources.functions and not resources.triggers:
        message = "no resources found; `kubeirq new function NAME` writes a first one"
        problems = [Problem(path, 1, "", message) for path in paths]
    if output != "table":
        click.echo(to_text(_found(resources, problems), output), nl=False)
        sys.exit(1 if problems else 0)
    for problem in problems:
        click.echo(str(problem))
    if resources.foreign:
        click.echo(f"(not kubeirq's, left out: {', '.join(resources.foreign)})", err=True)
    if problems:
        files = len({problem.file for problem in problems})
        click.echo(f"{counted(len(problems), 'problem')} in {counted(files, 'file')}")
        sys.exit(1)
    click.echo(f"ok: {counted(len(resources.functions), 'function')}, {counted(len(resources.triggers), 'trigger')}")


def _found(resources: "Resources", problems: "Sequence[Problem]") -> dict[str, Any]:
    return {
        "functions": len(resources.functions),
        "triggers": len(resources.triggers),
        "leftOut": list(resources.foreign),
        "problems": [
            {"file": str(found.file), "line": found.line, "field": found.field, "message": found.message}
            for found in problems
        ],
    }


@click.group()
def new() -> None:
    """Write the first files of a function or an event source."""


@new.command("function")
@click.argument("name")
@click.option("--http", "kind", flag_value="http", help="HTTP requests call the function (the default).")
@click.option("--cron", "kind", flag_value="cron", help="A schedule calls the function.")
@click.option("--kafka", "kind", flag_value="kafka", help="Kafka records call the function.")
@click.option("--nats", "kind", flag_value="nats", help="NATS messages call the function.")
def new_function(name: str, kind: str | None) -> None:
    """Write NAME.py and NAME.yaml, ready for `kubeirq dev NAME.yaml`."""
    _write(lambda: function_files(name, kind or "http"))
    click.echo(f"try it: kubeirq dev {name}.yaml")


@new.command("source")
@click.argument("name")
def new_source(name: str) -> None:
    """Write a plugin with a new event source into the folder NAME."""
    _write(lambda: source_files(name))
    click.echo(f"install it: pip install --editable ./{name}")


@click.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of  # slow to import: it loads the mail parser

    click.echo(version_of("kubeirq"))


def _write(files: Callable[[], Mapping[str, str]]) -> None:
    try:
        for path in write(files()):
            click.echo(f"wrote {path}")
    except (AlreadyExists, ValueError) as error:
        raise click.ClickException(str(error)) from error
