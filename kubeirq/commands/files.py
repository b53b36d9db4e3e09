"""The commands that only read and write files: check, new, version."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from kubeirq.commands.scaffold import Exists, function_files, source_files, write


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--secrets", type=click.Path(path_type=Path), help="A folder for each Secret, with a file for each key.")
def check(paths: tuple[Path, ...], secrets: Path | None) -> None:
    """Say everything that is wrong with files and folders: file, line, field, way out. Exit 1 if anything is."""
    from kubeirq.manifests import load

    resources, problems = load(paths, secrets)
    for problem in problems:
        click.echo(str(problem))
    if problems:
        files = len({problem.file for problem in problems})
        click.echo(f"{_many(len(problems), 'problem')} in {_many(files, 'file')}")
        sys.exit(1)
    click.echo(f"ok: {_many(len(resources.functions), 'function')}, {_many(len(resources.triggers), 'trigger')}")


@click.group()
def new() -> None:
    """Write the beginning of a function or a source."""


@new.command("function")
@click.argument("name")
@click.option("--http", "kind", flag_value="http", help="Called by HTTP requests (the default).")
@click.option("--cron", "kind", flag_value="cron", help="Called by the clock.")
@click.option("--kafka", "kind", flag_value="kafka", help="Called by Kafka records.")
@click.option("--nats", "kind", flag_value="nats", help="Called by NATS messages.")
def new_function(name: str, kind: str | None) -> None:
    """NAME.py and NAME.yaml, ready for `kubeirq dev NAME.yaml`."""
    _write(lambda: function_files(name, kind or "http"))
    click.echo(f"try it: kubeirq dev {name}.yaml")


@new.command("source")
@click.argument("name")
def new_source(name: str) -> None:
    """A folder NAME with an event source in one file, ready for `pip install ./NAME`."""
    _write(lambda: source_files(name))
    click.echo(f"install it: pip install --editable ./{name}")


@click.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of  # it brings the mail parser along

    click.echo(version_of("kubeirq"))


def _write(files: Callable[[], Mapping[str, str]]) -> None:
    try:
        for path in write(files()):
            click.echo(f"wrote {path}")
    except (Exists, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
