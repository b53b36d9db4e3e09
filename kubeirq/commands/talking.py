"""The commands that talk to a running fabric, on this machine or on a cluster."""

import base64
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from kubeirq.commands.fabrics import names, talks
from kubeirq.fabric_client import Asked, Table
from kubeirq.output.texts import age, table, text_of

OUTPUT = click.option(
    "--output", "-o", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True
)

TRIGGER = click.argument("trigger", shell_complete=names("triggers"))
FUNCTION = click.argument("function", shell_complete=names("functions"))


@click.command()
@click.argument("what", metavar="[KIND|NAME]", required=False, shell_complete=names("functions", "triggers"))
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="Of all namespaces of the cluster.")
@OUTPUT
@talks
async def get(asked: Asked, what: str | None, everywhere: bool, output: str) -> int:
    """List what runs, the worst first. Exit 3 if anything is not Ready."""
    found = await asked.overview(what, everywhere)
    if output != "table":
        click.echo(text_of(found.value, output), nl=False)
    elif any(rows for _, rows in found.tables):
        _print_tables(found.tables)
    else:
        click.echo("(there is nothing)", err=True)
    return 0 if found.is_healthy else 3


@click.command()
@click.argument("name", shell_complete=names("functions", "triggers"))
@OUTPUT
@talks
async def describe(asked: Asked, name: str, output: str) -> int:
    """Say how one trigger or function is, since when, and what to do next."""
    found = await asked.describe(name)
    click.echo(text_of(found.value, output) if output != "table" else "\n".join(found.lines), nl=output == "table")
    return 0


@click.command()
@FUNCTION
@click.option("-d", "--data", default="", help="The body; @FILE reads a file, @- standard input.")
@click.option("--content-type", default=None, help="Unset: JSON where it is, else text.")
@talks
async def call(asked: Asked, function: str, data: str, content_type: str | None) -> int:
    """Call a function and print its answer. Exit 1 if it is no 2xx."""
    body = _body(data)
    answer = await asked.call(function, body, content_type or _content_type(body))
    ended = b"" if answer.body.endswith(b"\n") or not answer.body else b"\n"
    sys.stdout.buffer.write(answer.body + ended)
    sys.stdout.buffer.flush()
    if not 200 <= answer.status < 300:
        click.echo(f"status {answer.status}", err=True)
        return 1
    return 0


@click.command()
@TRIGGER
@click.option("-d", "--data", default="", help="The payload; @FILE reads a file, @- standard input.")
@click.option("--key", help="The key, where the source has keys.")
@click.option("--count", type=click.IntRange(1, 100_000), default=1, show_default=True)
@talks
async def publish(asked: Asked, trigger: str, data: str, key: str | None, count: int) -> int:
    """Publish to where a trigger listens."""
    body = _body(data)
    published = await asked.publish(trigger, body, _content_type(body), key, count)
    places = f": {', '.join(published.positions[:5])}" if published.positions else ""
    click.echo(f"published {published.count}{places}")
    return 0


@click.command()
@click.argument("name", metavar="FUNCTION|TRIGGER", shell_complete=names("functions", "triggers"))
@click.option("-f", "--follow", is_flag=True, help="Go on with the lines to come, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(0), default=100, show_default=True, help="At most so many of the past.")
@talks
async def logs(asked: Asked, name: str, follow: bool, tail: int) -> int:
    """Print what a function printed, or what happened to a trigger."""
    async for line in asked.logs(name, tail, follow):
        click.echo(line)
    return 0


@click.command()
@TRIGGER
@talks
async def suspend(asked: Asked, trigger: str) -> int:
    """Drain a trigger and stop pulling, until it is resumed."""
    found = await asked.trigger(trigger)
    await asked.suspend(found)
    click.echo(f"{found['kind']}/{found['name']} suspended")
    return 0


@click.command()
@TRIGGER
@talks
async def resume(asked: Asked, trigger: str) -> int:
    """Go on where it was suspended, or where everything failed."""
    found = await asked.trigger(trigger)
    await asked.resume(found)
    click.echo(f"{found['kind']}/{found['name']} resumed")
    return 0


@click.group("dead-letters")
def dead_letters() -> None:
    """What could not be delivered, kept whole."""


@dead_letters.command("list")
@TRIGGER
@click.option("--limit", type=int, default=50, show_default=True)
@click.option("--group-by", type=click.Choice(["reason"]), help="Count them instead.")
@OUTPUT
@talks
async def list_letters(asked: Asked, trigger: str, limit: int, group_by: str | None, output: str) -> int:
    """List a trigger's dead letters, the oldest first."""
    letters = await asked.dead_letters(await asked.trigger(trigger), limit)
    if group_by is not None:
        counts = Counter(letter["reason"] for letter in letters)
        if output != "table":
            click.echo(text_of(dict(counts), output), nl=False)
        else:
            _print_tables([(("REASON", "COUNT"), counts.most_common())])
        return 0
    if output != "table":
        click.echo(text_of(letters, output), nl=False)
    elif not letters:
        click.echo("no dead letters")
    else:
        rows = [
            (
                letter["identity"], _key(letter["key"]), letter["reason"], letter["message"], letter["attempts"],
                letter["bytes"], letter["redriven"], age(letter["failedAt"]),
            )
            for letter in letters
        ]  # fmt: skip
        _print_tables([(("IDENTITY", "KEY", "REASON", "MESSAGE", "ATTEMPTS", "BYTES", "REDRIVEN", "AGE"), rows)])
    return 0


@dead_letters.command("show")
@TRIGGER
@click.argument("identity")
@click.option("--data", is_flag=True, help="The payload too: it may hold what is nobody's business.")
@OUTPUT
@talks
async def show_letter(asked: Asked, trigger: str, identity: str, data: bool, output: str) -> int:
    """Show one dead letter with every attempt."""
    letter = await asked.dead_letter(await asked.trigger(trigger), identity)
    payload = base64.b64decode(letter.pop("data") or "")
    if data:
        letter["data"] = payload.decode(errors="backslashreplace")
    else:
        letter["data"] = f"{len(payload)} bytes; --data shows them"
    click.echo(text_of(letter, "yaml" if output == "table" else output), nl=False)
    return 0


@dead_letters.command("redrive")
@TRIGGER
@click.argument("identities", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--rate", type=float, help="At most so many a second.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@talks
async def redrive(
    asked: Asked, trigger: str, identities: tuple[str, ...], everything: bool, rate: float | None, dry_run: bool
) -> int:
    """Deliver dead letters again; each is removed once it is settled. Exit 1 if any failed again."""
    found = await asked.trigger(trigger)
    wanted = _chosen(identities, everything)
    failed = would_be = 0
    async for line in asked.redrive(found, {"identities": wanted, "ratePerSecond": rate, "dryRun": dry_run}):
        if line.get("done"):
            failed = line["failed"]
            click.echo(
                f"{would_be} would be redriven" if dry_run else f"{line['delivered']} delivered, {failed} failed again"
            )
        elif dry_run:
            would_be += 1
            click.echo(f"{line['identity']}: would be redriven")
        else:
            click.echo(
                f"{line['identity']}: {line['outcome']}" + (f" ({line['status']})" if line.get("status") else "")
            )
    return 1 if failed else 0


@dead_letters.command("purge")
@TRIGGER
@click.argument("identities", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@talks
async def purge(asked: Asked, trigger: str, identities: tuple[str, ...], everything: bool) -> int:
    """Forget dead letters for ever."""
    wanted = _chosen(identities, everything)
    click.echo(f"purged {await asked.purge(await asked.trigger(trigger), wanted)}")
    return 0


@click.group()
def lanes() -> None:
    """Keys whose events wait: parked ones, and ones that are retried."""


@lanes.command("list")
@TRIGGER
@OUTPUT
@talks
async def list_lanes(asked: Asked, trigger: str, output: str) -> int:
    """List a trigger's lanes that do not simply flow."""
    views = await asked.lanes(await asked.trigger(trigger))
    if output != "table":
        click.echo(text_of(views, output), nl=False)
    elif not views:
        click.echo("no lane waits")
    else:
        rows = [
            (_key(v["key"]), v["partition"] or "-", v["events"], v["state"], age(v["since"]), v.get("message") or "-")
            for v in views
        ]
        _print_tables([(("KEY", "PARTITION", "EVENTS", "STATE", "SINCE", "LAST"), rows)])
    return 0


@lanes.command("release")
@TRIGGER
@click.argument("key", required=False)
@talks
async def release(asked: Asked, trigger: str, key: str | None) -> int:
    """Try parked and retried lanes again now: that of KEY, or all."""
    return await _act_on_lanes(asked, trigger, key, "release", "released")


@lanes.command("skip")
@TRIGGER
@click.argument("key", required=False)
@talks
async def skip(asked: Asked, trigger: str, key: str | None) -> int:
    """Make the first event of a waiting lane a dead letter, so that the lane goes on."""
    return await _act_on_lanes(asked, trigger, key, "skip", "skipped")


# --- helpers


async def _act_on_lanes(asked: Asked, trigger: str, key: str | None, verb: str, done: str) -> int:
    found = await asked.trigger(trigger)
    encoded = None if key is None else base64.b64encode(key.encode()).decode()
    click.echo(f"{done} {await asked.act_on_lanes(found, verb, encoded)}")
    return 0


def _chosen(identities: tuple[str, ...], everything: bool) -> list[str] | None:
    if bool(identities) == everything:
        raise click.UsageError("name identities, or --all")
    return None if everything else list(identities)


def _body(text: str) -> bytes:
    if text == "@-":
        return sys.stdin.buffer.read()
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_bytes()
        except OSError as error:
            raise click.UsageError(f"{text[1:]}: {error.strerror}") from error
    return text.encode()


def _content_type(body: bytes) -> str:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return "text/plain; charset=utf-8"
    return "application/json"


def _key(encoded: str | None) -> str:
    if encoded is None:
        return "-"
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return encoded


def _print_tables(tables: Sequence[Table]) -> None:
    """Those that have rows, with a line between."""
    written: list[list[Any]] = [lines for columns, rows in tables if (lines := table(columns, rows))]
    click.echo("\n\n".join("\n".join(lines) for lines in written), nl=bool(written))
