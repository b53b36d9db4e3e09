"""The commands for lanes: list, release, skip."""

import base64

import click

from kubeirq.commands.arguments import OUTPUT, TRIGGER, decoded_key, print_tables
from kubeirq.commands.open_fabric import with_fabric
from kubeirq.fabric_client import FabricClient
from kubeirq.output.formats import age, to_text
from kubeirq.output.letter_text import readable_lane


@click.group()
def lanes() -> None:
    """List, release or skip waiting lanes.

    A lane holds the events of one key or partition, in order. It waits while it is
    parked or its first event is retried.
    """


@lanes.command("list")
@TRIGGER
@OUTPUT
@with_fabric
async def list_lanes(fabric: FabricClient, trigger: str, output: str) -> int:
    """List the waiting lanes of a trigger."""
    views = await fabric.lanes(await fabric.trigger(trigger))
    if output != "table":
        click.echo(to_text([readable_lane(view) for view in views], output), nl=False)
    elif not views:
        click.echo("no lane waits")
    else:
        rows = [
            (
                decoded_key(view["key"]), view["partition"] or "-", view["events"], view["state"], age(view["since"]),
                view.get("message") or "-",
            )
            for view in views
        ]  # fmt: skip
        print_tables([(("KEY", "PARTITION", "EVENTS", "STATE", "SINCE", "LAST"), rows)])
    return 0


@lanes.command("release")
@TRIGGER
@click.argument("key", required=False)
@with_fabric
async def release(fabric: FabricClient, trigger: str, key: str | None) -> int:
    """Retry waiting lanes now.

    With KEY, only the lane of that key.
    """
    return await _act(fabric, trigger, key, "release", "released")


@lanes.command("skip")
@TRIGGER
@click.argument("key", required=False)
@with_fabric
async def skip(fabric: FabricClient, trigger: str, key: str | None) -> int:
    """Skip the first event of waiting lanes.

    The event becomes a dead letter, or is dropped if the trigger drops failed events, and the lane continues. With KEY,
    only the lane of that key.
    """
    return await _act(fabric, trigger, key, "skip", "skipped")


async def _act(fabric: FabricClient, trigger: str, key: str | None, verb: str, past_tense: str) -> int:
    found = await fabric.trigger(trigger)
    encoded = None if key is None else base64.b64encode(key.encode()).decode()
    click.echo(f"{past_tense} {await fabric.act_on_lanes(found, verb, encoded)}")
    return 0
