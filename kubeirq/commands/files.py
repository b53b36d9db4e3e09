"""The commands that only read and write files: check, new, version."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from kubeirq.commands.scaffold import AlreadyExists, function_files, source_files, write
from kubeirq.output.formats import counted


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--secrets",
    type=click.Path(path_type=Path),
    help="A folder with Secrets: a subfolder for each Secret, with a file for each key.",
)
def check(paths: tuple[Path, ...], secrets: Path | None) -> None:
    """Check manifests for problems.

    Prints every problem with its file, line and field. PATHS are files and folders. Exit code 1 means that
    there are problems.
    """
    from kubeirq.manifests.loading import load

    resources, problems = load(paths, secrets)
    for problem in problems:
        click.echo(str(problem))
    if problems:
        files = len({problem.file for problem in problems})
        click.echo(f"{counted(len(problems), 'problem')} in {counted(files, 'file')}")
        sys.exit(1)
    click.echo(f"ok: {counted(len(resources.functions), 'function')}, {counted(len(resources.triggers), 'trigger')}")


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
