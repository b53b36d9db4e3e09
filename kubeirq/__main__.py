"""The command `kubeirq`."""

import sys

import click

from kubeirq.commands.group import CommandModules, Commands, add_examples, print_version

MODULES = {
    "dev": "local",
    "serve": "local",
    "check": "files",
    "new": "files",
    "call": "invoke",
    "publish": "invoke",
    "fire": "invoke",
    "get": "state",
    "describe": "state",
    "logs": "state",
    "dead-letters": "dead_letters",
    "lanes": "lanes",
    "suspend": "suspension",
    "resume": "suspension",
    "deploy": "cluster",
    "render": "cluster",
    "crds": "cluster",
    "version": "files",
}


@click.group(cls=Commands, commands=CommandModules(MODULES), context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version, help="Print the version."
)
def commands() -> None:
    """Run functions when events occur, on this machine or on a Kubernetes cluster."""


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


add_examples(completion, "completion")


def main() -> None:
    sys.exit(commands(prog_name="kubeirq", standalone_mode=True))


if __name__ == "__main__":
    main()
