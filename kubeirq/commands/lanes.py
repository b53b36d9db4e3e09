"""The commands for lanes: list, release, skip."""

import click

from kubeirq.commands.arguments import OUTPUT, TRIGGER, print_tables
from kubeirq.commands.open_fabric import with_fabric
from kubeirq.fabric_client import FabricClient, Refused
from kubeirq.output.formats import age, to_text
from kubeirq.output.letter_text import readable_lane

LANE = click.argument("lane", required=False)


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
    """List the waiting lanes of a trigger.

    LANE is a key, a partition or one event. It names the lane for `release` and `skip`.
    """
    views = await fabric.lanes(await fabric.trigger(trigger))
    if output != "table":
        click.echo(to_text([readable_lane(view) for view in views], output), nl=False)
    elif not views:
        click.echo("no lane waits")
    else:
        rows = [
            (
                view["name"], view["partition"] or "-", view["events"], view["state"], age(view["since"]),
                view.get("message") or "-",
            )
            for view in views
        ]  # fmt: skip
        print_tables([(("LANE", "PARTITION", "EVENTS", "STATE", "SINCE", "LAST"), rows)])
    return 0


@lanes.command("release")
@TRIGGER
@LANE
@click.option("--all", "everything", is_flag=True, help="Retry all waiting lanes of the trigger.")
@with_fabric
async def release(fabric: FabricClient, trigger: str, lane: str | None, everything: bool) -> int:
    """Retry a waiting lane now, or all of them.

    LANE is a name of `kubeirq lanes list`.
    """
    return await _act(fabric, trigger, lane, everything, "release", "released")


@lanes.command("skip")
@TRIGGER
@LANE
@click.option("--all", "everything", is_flag=True, help="Skip the first event of all waiting lanes of the trigger.")
@with_fabric
async def skip(fabric: FabricClient, trigger: str, lane: str | None, everything: bool) -> int:
    """Skip the first event of a waiting lane, or of all.

    The event becomes a dead letter, or is dropped if the trigger drops failed events, and the lane continues. LANE is a
    name of `kubeirq lanes list`.
    """
    return await _act(fabric, trigger, lane, everything, "skip", "skipped")


async def _act(
    fabric: FabricClient, trigger: str, lane: str | None, everything: bool, verb: str, past_tense: str
) -> int:
    if (lane is None) != everything:
        raise click.UsageError("give the name of a lane, or --all; `kubeirq lanes list` shows the names")
    found = await fabric.trigger(trigger)
    count = await fabric.act_on_lanes(found, verb, lane)
    if lane is not None and not count:
        raise Refused(
            f"no lane {lane!r} of {found['name']} waits for an attempt or for a person; "
            f"`kubeirq lanes list {found['name']}` shows the lanes"
        )
    click.echo(f"{past_tense} {count}")
    return 0
