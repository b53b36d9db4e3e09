"""The command `kubeirq`."""

import sys

import click

from kubeirq.commands.cluster import crds, deploy, render
from kubeirq.commands.dead_letters import dead_letters
from kubeirq.commands.files import check, new, version
from kubeirq.commands.group import Commands, add_examples, print_version
from kubeirq.commands.invoke import call, fire, publish
from kubeirq.commands.lanes import lanes
from kubeirq.commands.local import dev, serve
from kubeirq.commands.state import describe, get, logs
from kubeirq.commands.suspension import resume, suspend


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version, help="Print the version."
)
def commands() -> None:
    """Run functions when events occur, on this machine or on a Kubernetes cluster."""


for command in (
    dev,
    serve,
    check,
    new,
    call,
    publish,
    fire,
    get,
    describe,
    logs,
    dead_letters,
    lanes,
    suspend,
    resume,
    deploy,
    render,
    crds,
    version,
):
    commands.add_command(command)


@commands.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell script that completes kubeirq commands.

    For bash: eval "$(kubeirq completion bash)"
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(commands, {}, "kubeirq", "_KUBEIRQ_COMPLETE").source())


add_examples(commands)


def main() -> None:
    sys.exit(commands(prog_name="kubeirq", standalone_mode=True))


if __name__ == "__main__":
    main()
