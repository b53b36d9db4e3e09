"""The commands that show the state of functions and triggers: get, describe, logs."""

import click
import orjson

from kubeirq.commands.arguments import FUNCTION_OR_TRIGGER, OUTPUT, print_tables
from kubeirq.commands.open_fabric import complete_names, with_fabric
from kubeirq.fabric_client import FabricClient
from kubeirq.output.fabric_log_lines import line_of
from kubeirq.output.formats import to_text

_FAILING = 6  # the exit code of `get --check` if everything is Ready, and events fail


@click.command()
@click.argument(
    "selector", metavar="[KIND|NAME]", required=False, shell_complete=complete_names("functions", "triggers")
)
@click.option("-A", "--all-namespaces", is_flag=True, help="List all namespaces of the cluster.")
@click.option(
    "--check", is_flag=True,
    help="Exit with 6 if there are dead letters, or the last call of a trigger failed; print which.",
)  # fmt: skip
@OUTPUT
@with_fabric
async def get(fabric: FabricClient, selector: str | None, all_namespaces: bool, check: bool, output: str) -> int:
    """List functions and triggers, the worst first.

    KIND is functions, triggers, or a kind such as KafkaTrigger. Exit code 3 means that something is not Ready, or
    that the files have changed and cannot run. Dead letters do not change the exit code, unless you say --check.
    """
    found = await fabric.overview(selector, all_namespaces)
    if output != "table":
        click.echo(to_text(found.value, output), nl=False)
    elif any(rows for _, rows in found.tables):
        print_tables(found.tables, cut=True)
    else:
        click.echo("(no functions and no triggers)", err=True)
    if output == "table" and found.notes:
        click.echo("\n" + "\n".join(found.notes))
    failing = await fabric.failing(found.value["triggers"]) if check else []
    for line in failing:
        click.echo(line, err=True)
    return 3 if not found.is_healthy else _FAILING if failing else 0


@click.command()
@FUNCTION_OR_TRIGGER
@OUTPUT
@with_fabric
async def describe(fabric: FabricClient, name: str, output: str) -> int:
    """Show a function or trigger in detail.

    The output ends with the next steps, if there are any. A function and a
    trigger of the same name are both shown.
    """
    found = await fabric.describe(name)
    if output == "table":
        click.echo("\n\n".join("\n".join(one.lines) for one in found))
    else:
        click.echo(to_text(found[0].value if len(found) == 1 else [one.value for one in found], output), nl=False)
    return 0


@click.command()
@FUNCTION_OR_TRIGGER
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they come, until you press Ctrl-C.")
@click.option(
    "--tail", type=click.IntRange(0), default=100, show_default=True, help="The number of past lines to print."
)
@click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="The output format. `json` is an object for each line.",
)  # fmt: skip
@with_fabric
async def logs(fabric: FabricClient, name: str, follow: bool, tail: int, output: str) -> int:
    """Print the log of a function or trigger.

    For a function, this is its output, with times. For a trigger, these are the lines about it in the fabric's log. A
    function comes before a trigger of the same name: write KIND/NAME for the trigger.
    """
    async for record in fabric.logs(name, tail, follow):
        click.echo(line_of(record) if output == "text" else orjson.dumps(record).decode())
    return 0
