"""The commands that talk to a running fabric."""

import asyncio
import base64
import difflib
import functools
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import orjson
import yaml

from kubeirq.admin_client import AdminClient, NotRunning, Refused
from kubeirq.commands.running import STATE

OUTPUT = click.option(
    "--output", "-o", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True
)


def talks(work: Callable[..., Awaitable[int]]) -> Callable[..., None]:
    """Opens the fabric's admin API for a command, and turns its end into an exit code."""

    @STATE
    @functools.wraps(work)
    def run(state: Path, **options: Any) -> None:
        async def main() -> int:
            async with AdminClient(state) as client:
                return await work(client, **options)

        try:
            sys.exit(asyncio.run(main()))
        except NotRunning as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(4)
        except Refused as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)

    return run


@click.command()
@click.argument("kind", required=False)
@OUTPUT
@talks
async def get(client: AdminClient, kind: str | None, output: str) -> int:
    """List what runs, the worst first. Exit 3 if anything is not Ready."""
    status = await client.get("/v1/status")
    functions, triggers = status["functions"], status["triggers"]
    if kind is not None:
        wanted = kind.lower().rstrip("s")
        functions = functions if wanted == "function" else []
        triggers = [found for found in triggers if wanted in (found["kind"].lower(), "trigger")]
    triggers = sorted(triggers, key=_worst_first)
    functions = sorted(functions, key=lambda found: (found["state"] == "Ready", found["name"]))
    if output != "table":
        _print({"functions": functions, "triggers": triggers}, output)
    else:
        _table(
            ("TRIGGER", "FUNCTION", "READY", "DELIVERED", "RETRIED", "DEAD", "HELD", "LAG", "LAST"),
            [
                (
                    f"{found['kind']}/{found['name']}", found["function"], _ready(found),
                    found["counters"]["delivered"], found["counters"]["retried"], found["deadLetters"], found["held"],
                    found["lag"]["events"] if found["lag"] else "-", _last(found["lastAnswer"]),
                )
                for found in triggers
            ],
        )  # fmt: skip
        if functions and triggers:
            click.echo()
        _table(
            ("FUNCTION", "STATE", "RUNTIME", "PID", "RESTARTS", "SINCE", "LAST ERROR"),
            [
                (
                    found["name"], found["state"], found["runtime"], found["pid"] or "-", found["restarts"],
                    _age(found["since"]), (found["lastError"] or "").strip().splitlines()[-1:] or "-",
                )
                for found in functions
            ],
        )  # fmt: skip
    healthy = all(found["state"] == "Ready" for found in functions) and all(_ready(t) == "True" for t in triggers)
    return 0 if healthy else 3


@click.command()
@click.argument("name")
@OUTPUT
@talks
async def describe(client: AdminClient, name: str, output: str) -> int:
    """Say how one trigger or function is, since when, and what to do next."""
    status = await client.get("/v1/status")
    everything = [*status["triggers"], *({**found, "kind": "Function"} for found in status["functions"])]
    found = _one(everything, name)
    if output != "table":
        _print(found, output)
        return 0
    click.echo(f"{found['kind']} {found['namespace']}/{found['name']}")
    if found["kind"] == "Function":
        for label in ("state", "runtime", "pid", "address", "restarts"):
            click.echo(f"  {label:10} {found[label]}")
        click.echo(f"  {'since':10} {_age(found['since'])} ago")
        if found["lastError"]:
            click.echo("  last error\n    " + found["lastError"].strip().replace("\n", "\n    "))
        return 0
    click.echo(f"  calls {found['function']}")
    for condition in found["conditions"]:
        text = f"  {condition['type']:10} {condition['status']:8} {condition['reason']}"
        text += f", for {_age(condition['since'])}" if condition["since"] else ""
        click.echo(text + (f"\n      {condition['message']}" if condition["message"] else ""))
    click.echo("  " + ", ".join(f"{name} {count}" for name, count in found["counters"].items()))
    lag = found["lag"]
    click.echo(f"  held {found['held']}, in flight {found['inFlight']}, lag {lag['events'] if lag else 'unknown'}")
    click.echo(
        f"  last answer {_last(found['lastAnswer'])}"
        + (f"; last error: {found['lastError']}" if found["lastError"] else "")
    )
    for advice in _advice(found):
        click.echo(f"  next: {advice}")
    return 0


@click.command()
@click.argument("function")
@click.option("-d", "--data", default="", help="The body; @FILE reads a file, @- standard input.")
@click.option("--content-type", default=None, help="Unset: JSON where it is, else text.")
@talks
async def call(client: AdminClient, function: str, data: str, content_type: str | None) -> int:
    """Call a function and print its answer. Exit 1 if it is no 2xx."""
    found = _one([{**f, "kind": "Function"} for f in (await client.get("/v1/status"))["functions"]], function)
    body = _body(data)
    status, headers, answer = await client.send(
        f"/v1/functions/{found['namespace']}/{found['name']}/call", body, content_type or _content_type(body)
    )
    status = int(headers.get("kubeirq-status", status))
    sys.stdout.buffer.write(answer + (b"" if answer.endswith(b"\n") or not answer else b"\n"))
    if not 200 <= status < 300:
        click.echo(f"status {status}", err=True)
        return 1
    return 0


@click.command()
@click.argument("trigger")
@click.option("-d", "--data", default="", help="The payload; @FILE reads a file, @- standard input.")
@click.option("--key", help="The key, where the source has keys.")
@click.option("--count", type=click.IntRange(1, 100_000), default=1, show_default=True)
@talks
async def publish(client: AdminClient, trigger: str, data: str, key: str | None, count: int) -> int:
    """Publish to where a trigger listens."""
    found = _one((await client.get("/v1/status"))["triggers"], trigger)
    body = _body(data)
    query = {"count": str(count), **({"key": key} if key is not None else {})}
    answer = await client.send(f"{_path(found)}/publish", body, _content_type(body), **query)
    published = orjson.loads(answer[2])
    positions = published.get("positions") or []
    click.echo(f"published {published['published']}" + (f": {', '.join(map(str, positions[:5]))}" if positions else ""))
    return 0


@click.command()
@click.argument("trigger")
@talks
async def suspend(client: AdminClient, trigger: str) -> int:
    """Drain a trigger and stop pulling, until it is resumed."""
    return await _act(client, trigger, "suspend", "suspended")


@click.command()
@click.argument("trigger")
@talks
async def resume(client: AdminClient, trigger: str) -> int:
    """Go on where it was suspended, or where everything failed."""
    return await _act(client, trigger, "resume", "resumed")


@click.group("dead-letters")
def dead_letters() -> None:
    """What could not be delivered, kept whole."""


@dead_letters.command("list")
@click.argument("trigger")
@click.option("--limit", type=int, default=50, show_default=True)
@click.option("--group-by", type=click.Choice(["reason"]), help="Count them instead.")
@OUTPUT
@talks
async def list_letters(client: AdminClient, trigger: str, limit: int, group_by: str | None, output: str) -> int:
    """List a trigger's dead letters, the oldest first."""
    found = await _trigger(client, trigger)
    letters = (await client.get(f"{_path(found)}/dead-letters", limit=str(limit)))["deadLetters"]
    if group_by is not None:
        counts = Counter(letter["reason"] for letter in letters)
        if output != "table":
            _print(dict(counts), output)
        else:
            _table(("REASON", "COUNT"), counts.most_common())
        return 0
    if output != "table":
        _print(letters, output)
    elif not letters:
        click.echo("no dead letters")
    else:
        _table(
            ("IDENTITY", "KEY", "REASON", "MESSAGE", "ATTEMPTS", "BYTES", "REDRIVEN", "AGE"),
            [
                (
                    letter["identity"], _key(letter["key"]), letter["reason"], letter["message"], letter["attempts"],
                    letter["bytes"], letter["redriven"], _age(letter["failedAt"]),
                )
                for letter in letters
            ],
        )  # fmt: skip
    return 0


@dead_letters.command("show")
@click.argument("trigger")
@click.argument("identity")
@click.option("--data", is_flag=True, help="The payload too: it may hold what is nobody's business.")
@OUTPUT
@talks
async def show_letter(client: AdminClient, trigger: str, identity: str, data: bool, output: str) -> int:
    """Show one dead letter with every attempt."""
    found = await _trigger(client, trigger)
    letter = await client.get(f"{_path(found)}/dead-letters/show", identity=identity)
    payload = base64.b64decode(letter.pop("data") or "")
    if data:
        letter["data"] = payload.decode(errors="backslashreplace")
    else:
        letter["data"] = f"{len(payload)} bytes; --data shows them"
    _print(letter, "yaml" if output == "table" else output)
    return 0


@dead_letters.command("redrive")
@click.argument("trigger")
@click.argument("identities", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--rate", type=float, help="At most so many a second.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@talks
async def redrive(
    client: AdminClient, trigger: str, identities: tuple[str, ...], everything: bool, rate: float | None, dry_run: bool
) -> int:
    """Deliver dead letters again; each is removed once it is settled. Exit 1 if any failed again."""
    found = await _trigger(client, trigger)
    wanted = _chosen(identities, everything)
    failed = 0
    request = {"identities": wanted, "ratePerSecond": rate, "dryRun": dry_run}
    async for line in client.lines(f"{_path(found)}/dead-letters/redrive", request):
        if line.get("done"):
            failed = line["failed"]
            verb = "would be redriven" if dry_run else "delivered"
            click.echo(f"{line['delivered']} {verb}, {failed} failed again")
        else:
            click.echo(
                f"{line['identity']}: {line['outcome']}" + (f" ({line['status']})" if line.get("status") else "")
            )
    return 1 if failed else 0


@dead_letters.command("purge")
@click.argument("trigger")
@click.argument("identities", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@talks
async def purge(client: AdminClient, trigger: str, identities: tuple[str, ...], everything: bool) -> int:
    """Forget dead letters for ever."""
    found = await _trigger(client, trigger)
    answer = await client.post(f"{_path(found)}/dead-letters/purge", {"identities": _chosen(identities, everything)})
    click.echo(f"purged {answer['purged']}")
    return 0


@click.group()
def lanes() -> None:
    """Keys whose events wait: parked ones, and ones that are retried."""


@lanes.command("list")
@click.argument("trigger")
@OUTPUT
@talks
async def list_lanes(client: AdminClient, trigger: str, output: str) -> int:
    """List a trigger's lanes that do not simply flow."""
    found = await _trigger(client, trigger)
    views = (await client.get(f"{_path(found)}/lanes"))["lanes"]
    if output != "table":
        _print(views, output)
    elif not views:
        click.echo("no lane waits")
    else:
        rows = [
            (_key(v["key"]), v["partition"] or "-", v["events"], v["state"], _age(v["since"]), v.get("message") or "-")
            for v in views
        ]
        _table(("KEY", "PARTITION", "EVENTS", "STATE", "SINCE", "LAST"), rows)
    return 0


@lanes.command("release")
@click.argument("trigger")
@click.argument("key", required=False)
@talks
async def release(client: AdminClient, trigger: str, key: str | None) -> int:
    """Try parked and retried lanes again now: that of KEY, or all."""
    return await _lane_act(client, trigger, key, "release", "released")


@lanes.command("skip")
@click.argument("trigger")
@click.argument("key", required=False)
@talks
async def skip(client: AdminClient, trigger: str, key: str | None) -> int:
    """Make the first event of a waiting lane a dead letter, so that the lane goes on."""
    return await _lane_act(client, trigger, key, "skip", "skipped")


# --- helpers


async def _act(client: AdminClient, trigger: str, verb: str, done: str) -> int:
    found = await _trigger(client, trigger)
    await client.post(f"{_path(found)}/{verb}")
    click.echo(f"{found['kind']}/{found['name']} {done}")
    return 0


async def _lane_act(client: AdminClient, trigger: str, key: str | None, verb: str, done: str) -> int:
    found = await _trigger(client, trigger)
    encoded = None if key is None else base64.b64encode(key.encode()).decode()
    answer = await client.post(f"{_path(found)}/lanes/{verb}", {"key": encoded})
    click.echo(f"{done} {answer.get('lanes', 0)}")
    return 0


async def _trigger(client: AdminClient, name: str) -> Mapping[str, Any]:
    return _one((await client.get("/v1/status"))["triggers"], name)


def _one(found: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """What NAME, KIND/NAME or NAMESPACE/NAME means. Raises Refused when it is nothing, or several things."""
    front, _, last = name.rpartition("/")
    matching = [
        one
        for one in found
        if one["name"] == last and (not front or front.lower() in (one["kind"].lower(), one["namespace"]))
    ]
    triggers = {(one["kind"], one["namespace"], one["name"]) for one in matching}
    if len(triggers) == 1:
        return matching[0]
    if matching:
        raise Refused(f"{name!r} is several: {', '.join(f'{kind}/{n}' for kind, _, n in sorted(triggers))}")
    names = sorted({one["name"] for one in found})
    near = difflib.get_close_matches(last, names, 1)
    raise Refused(
        f"no {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; there is: {', '.join(names) or 'nothing'}")
    )


def _chosen(identities: tuple[str, ...], everything: bool) -> list[str] | None:
    if bool(identities) == everything:
        raise click.UsageError("name identities, or --all")
    return None if everything else list(identities)


def _path(trigger: Mapping[str, Any]) -> str:
    return "/v1/triggers/" + "/".join(quote(trigger[part]) for part in ("namespace", "kind", "name"))


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


def _worst_first(trigger: Mapping[str, Any]) -> tuple[bool, int, str]:
    return _ready(trigger) == "True", -trigger["deadLetters"], trigger["name"]


def _ready(trigger: Mapping[str, Any]) -> str:
    condition = next((found for found in trigger["conditions"] if found["type"] == "Ready"), None)
    if condition is None:
        return "Unknown"
    return "True" if condition["status"] == "True" else str(condition["reason"])


def _last(answer: Mapping[str, Any] | None) -> str:
    if answer is None:
        return "-"
    return f"{answer['status']}, {answer['latencySeconds'] * 1000:.1f} ms, {_age(answer['at'])} ago"


def _advice(trigger: Mapping[str, Any]) -> list[str]:
    name = trigger["name"]
    found = []
    reason = next((c["reason"] for c in trigger["conditions"] if c["type"] == "Delivering"), "")
    if reason == "FunctionDown":
        found.append(f"kubeirq describe Function/{trigger['function']}; its events wait, and none is lost")
    if reason == "EverythingFails":
        found.append(f"mend the function; then kubeirq resume {name}, or wait: one event is tried every 30 s")
    if reason == "Parked":
        found.append(f"kubeirq lanes list {name}")
    if reason == "Suspended":
        found.append(f"kubeirq resume {name}")
    if trigger["deadLetters"]:
        found.append(f"kubeirq dead-letters list {name}")
    return found


def _key(encoded: str | None) -> str:
    if encoded is None:
        return "-"
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return encoded


def _age(at: float | None) -> str:
    if not at:
        return "-"
    seconds = max(0, int(time.time() - at))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if not rows:
        return
    texts = [names, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(names))]
    for row in texts:
        click.echo("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else "-"
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:59] + "…"


def _print(value: Any, output: str) -> None:
    if output == "json":
        click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
    else:
        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
