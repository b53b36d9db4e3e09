"""The commands for dead letters: list, show, redrive, purge."""

import base64
from collections import Counter
from collections.abc import Collection

import click

from kubeirq.commands.arguments import OUTPUT, TRIGGER, decoded_key, print_tables
from kubeirq.commands.open_fabric import with_fabric
from kubeirq.fabric_client import FabricClient, Refused
from kubeirq.output.formats import age, to_text
from kubeirq.output.letter_text import readable_letter, tell_unreadable


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show, redrive or purge dead letters.

    A dead letter is an event that could not be delivered, with all its data.
    """


@dead_letters.command("list")
@TRIGGER
@click.option("--limit", type=int, default=50, show_default=True, help="The number of dead letters to list.")
@click.option("--group-by", type=click.Choice(["reason"]), help="Count the listed dead letters instead.")
@OUTPUT
@with_fabric
async def list_letters(fabric: FabricClient, trigger: str, limit: int, group_by: str | None, output: str) -> int:
    """List the dead letters of a trigger, the oldest first."""
    letters = await fabric.dead_letters(await fabric.trigger(trigger), limit)
    if group_by is not None:
        counts = Counter(letter["reason"] for letter in letters)
        if output != "table":
            click.echo(to_text(dict(counts), output), nl=False)
        else:
            print_tables([(("REASON", "COUNT"), counts.most_common())])
        return 0
    if output != "table":
        click.echo(to_text([readable_letter(letter) for letter in letters], output), nl=False)
    elif not letters:
        click.echo("no dead letters")
    else:
        rows = [
            (
                letter["identity"], decoded_key(letter["key"]), letter["reason"], letter["message"],
                letter["attempts"], letter["bytes"], letter["redriven"], age(letter["failedAt"]),
            )
            for letter in letters
        ]  # fmt: skip
        print_tables([(("IDENTITY", "KEY", "REASON", "MESSAGE", "ATTEMPTS", "BYTES", "REDRIVEN", "AGE"), rows)])
    return 0


@dead_letters.command("show")
@TRIGGER
@click.argument("identity")
@click.option("--data", is_flag=True, help="Print the payload too. It may contain confidential data.")
@OUTPUT
@with_fabric
async def show_letter(fabric: FabricClient, trigger: str, identity: str, data: bool, output: str) -> int:
    """Show one dead letter with its attempts."""
    letter = readable_letter(await fabric.dead_letter(await fabric.trigger(trigger), identity))
    payload = base64.b64decode(letter.pop("data") or "")
    if data:
        letter["data"] = payload.decode(errors="backslashreplace")
    else:
        letter["data"] = f"{len(payload)} bytes; --data shows them"
    click.echo(to_text(letter, "yaml" if output == "table" else output), nl=False)
    return 0


@dead_letters.command("redrive")
@TRIGGER
@click.argument("identities", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Redrive all dead letters of the trigger.")
@click.option("--rate", type=float, help="Redrive at most so many a second.")
@click.option("--dry-run", is_flag=True, help="Only list the dead letters that would be redriven.")
@with_fabric
async def redrive(
    fabric: FabricClient, trigger: str, identities: tuple[str, ...], everything: bool, rate: float | None, dry_run: bool
) -> int:
    """Deliver dead letters again.

    Each one is removed after it is delivered. Exit code 1 means that at least one failed again.
    """
    found = await fabric.trigger(trigger)
    selected = _selected(identities, everything)
    failed = would_be = 0
    missing = set(selected or ())
    async for line in fabric.redrive(found, {"identities": selected, "ratePerSecond": rate, "dryRun": dry_run}):
        missing.discard(line.get("identity"))
        if line.get("done"):
            tell_unreadable(line)
            failed = line["failed"]
            click.echo(
                f"{would_be} would be redriven" if dry_run else f"{line['delivered']} delivered, {failed} failed again"
            )
        elif line["outcome"] == "dryRun":
            would_be += 1
            click.echo(f"{line['identity']}: would be redriven")
        else:
            click.echo(
                f"{line['identity']}: {line['outcome']}"
                + (f" ({line['status']})" if line.get("status") else "")
                + (f": {line['reason']}" if line.get("reason") else "")
            )
    _refuse_missing(missing, trigger)
    return 1 if failed else 0


@dead_letters.command("purge")
@TRIGGER
@click.argument("identities", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Delete all dead letters of the trigger.")
@with_fabric
async def purge(fabric: FabricClient, trigger: str, identities: tuple[str, ...], everything: bool) -> int:
    """Delete dead letters. You cannot get them back."""
    selected = _selected(identities, everything)
    purged, missing = await fabric.purge(await fabric.trigger(trigger), selected)
    click.echo(f"purged {purged}")
    _refuse_missing(missing, trigger)
    return 0


def _refuse_missing(identities: Collection[str], trigger: str) -> None:
    """Raises Refused if the person named dead letters that there are not."""
    if identities:
        names = ", ".join(map(repr, sorted(identities)))
        raise Refused(f"no dead letter {names}; `kubeirq dead-letters list {trigger}` shows them")


def _selected(identities: tuple[str, ...], everything: bool) -> list[str] | None:
    """The identities, or None for all."""
    if bool(identities) == everything:
        raise click.UsageError("give the identities of dead letters, or --all; `kubeirq dead-letters list` shows them")
    return None if everything else list(identities)
