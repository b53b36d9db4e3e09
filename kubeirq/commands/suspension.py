"""The commands that stop and start a trigger: suspend and resume."""

import click

from kubeirq.commands.arguments import TRIGGER
from kubeirq.commands.open_fabric import with_fabric
from kubeirq.fabric_client import FabricClient


@click.command()
@TRIGGER
@with_fabric
async def suspend(fabric: FabricClient, trigger: str) -> int:
    """Suspend a trigger.

    It takes no events until you resume it. Calls that run end first; other events go back to their source.
    """
    found = await fabric.trigger(trigger)
    await fabric.suspend(found)
    click.echo(f"{found['kind']}/{found['name']} suspended")
    return 0


@click.command()
@TRIGGER
@with_fabric
async def resume(fabric: FabricClient, trigger: str) -> int:
    """Resume a suspended or failing trigger.

    A trigger holds its events if it is suspended, or if every call fails. This starts it again. A CronTrigger then
    makes up for the runs that it missed, as its `catchUp` says: the latest one, all of them, or none.
    """
    found = await fabric.trigger(trigger)
    await fabric.resume(found)
    click.echo(f"{found['kind']}/{found['name']} resumed")
    if found["kind"] == "CronTrigger" and found.get("suspended"):
        click.echo("  runs that it missed meanwhile are made up for as spec.catchUp says (unset: the latest one, now)")
    return 0
