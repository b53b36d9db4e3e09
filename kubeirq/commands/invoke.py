"""The commands that send something: call, publish and fire."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click
import orjson

from kubeirq.commands.arguments import FUNCTION, TRIGGER
from kubeirq.commands.fabric_options import CLUSTER_OPTIONS
from kubeirq.commands.open_fabric import with_fabric
from kubeirq.fabric_client import FabricClient
from kubeirq.message import MOST_PUBLISHED, Message
from kubeirq.sample_events import SAMPLES, Sample

HEADER = click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header. Repeatable.")
ATTRIBUTE = click.option(
    "--attribute", "attributes", multiple=True, metavar="NAME=VALUE", help="An attribute of the CloudEvent. Repeatable."
)
SAMPLE = click.option(
    "--sample", type=click.Choice(sorted(SAMPLES)), help="Send an event of this kind; the other options change it."
)

_RUNS_ON = 5  # the exit code of a run that has not ended


@click.command()
@FUNCTION
@click.option("-d", "--data", default=None, help="The request body. @FILE reads a file, @- reads standard input.")
@click.option("--content-type", default=None, help="Default: application/json for valid JSON, else text/plain.")
@HEADER
@ATTRIBUTE
@SAMPLE
@with_fabric
async def call(
    fabric: FabricClient, function: str, data: str | None, content_type: str | None, headers: tuple[str, ...],
    attributes: tuple[str, ...], sample: str | None,
) -> int:  # fmt: skip
    """Call a function and print its answer.

    Exit code 1 means that the function did not answer with a 2xx status.
    """
    answer = await fabric.call(function, _message(data, content_type, headers, attributes, sample))
    line_end = b"" if answer.body.endswith(b"\n") or not answer.body else b"\n"
    sys.stdout.buffer.write(answer.body + line_end)
    sys.stdout.buffer.flush()
    if not 200 <= answer.status < 300:
        click.echo(f"status {answer.status}" + (f": {answer.reason}" if answer.reason else ""), err=True)
        return 1
    return 0


@click.command()
@TRIGGER
@click.option("-d", "--data", default=None, help="The payload. @FILE reads a file, @- reads standard input.")
@click.option("--content-type", default=None, help="Default: application/json for valid JSON, else text/plain.")
@HEADER
@ATTRIBUTE
@SAMPLE
@click.option("--key", help="The event's key, for sources that have keys.")
@click.option("--subject", help="The NATS subject, for a trigger whose subject has wildcards.")
@click.option("--path", help="The path, for an HTTP trigger whose path has parameters.")
@click.option(
    "--count", type=click.IntRange(1, MOST_PUBLISHED), default=1, show_default=True,
    help="Publish the event so many times.",
)  # fmt: skip
@with_fabric
async def publish(
    fabric: FabricClient, trigger: str, data: str | None, content_type: str | None, headers: tuple[str, ...],
    attributes: tuple[str, ...], sample: str | None, key: str | None, subject: str | None, path: str | None, count: int,
) -> int:  # fmt: skip
    """Publish an event to a trigger's source.

    The source is, for example, its topic, subject or path. This works on one machine only; on a cluster, use a client
    of the source, or `kubeirq call`.
    """
    message = _message(data, content_type, headers, attributes, sample)
    published = await fabric.publish(trigger, replace(message, key=key, subject=subject, path=path), count)
    places = f": {', '.join(published.positions[:5])}" if published.positions else ""
    click.echo(f"published {published.count}{places}")
    return 0


# On a cluster it is refused, with the reason: the options work, and are not offered
for _option in publish.params:
    if isinstance(_option, click.Option) and _option.name in CLUSTER_OPTIONS:
        _option.hidden = True


@click.command()
@TRIGGER
@with_fabric
async def fire(fabric: FabricClient, trigger: str) -> int:
    """Run a cron trigger now, once, and wait for the outcome.

    The tick goes the trigger's way, with its payload, filter and reply. The ticks of the schedule come as before. Exit
    code 1 means that the function was not called, or failed. Exit code 5 means that it still ran after 20 seconds: the
    outcome is not known yet, and the run goes on.
    """
    failed = runs_on = False
    for found in await fabric.fire(await fabric.trigger(trigger)):
        outcome = found["outcome"]
        is_failure = outcome not in ("delivered", "filtered", None)
        failed, runs_on = failed or is_failure, runs_on or outcome is None
        if outcome is None:
            text = f"it has not ended yet; `kubeirq describe {trigger}` says more"
        elif not is_failure:
            text = outcome
        else:
            text = ": ".join(filter(None, ("failed", found["reason"], found["message"])))
        click.echo(f"{found['function']}: {text}", err=is_failure)
    return 1 if failed else _RUNS_ON if runs_on else 0


def _message(
    data: str | None, content_type: str | None, headers: Sequence[str], attributes: Sequence[str], sample: str | None
) -> Message:
    """The message of these options. Raises UsageError."""
    base = SAMPLES[sample] if sample is not None else Sample({})
    body = _body(data) if data is not None else base.body if sample is not None else b""
    named = {name.lower(): value.strip() for name, value in _pairs("--header", headers, ":")}
    content_type = named.pop("content-type", None) or content_type or _content_type(body)
    given = {name.removeprefix("ce-"): value for name, value in _pairs("--attribute", attributes, "=")}
    for name in given:
        if not re.fullmatch("[a-z0-9]+", name):
            raise click.UsageError(f"--attribute: {name!r} is not a name; use lower-case letters and digits")
    for name, value in named.items():
        if not value.isprintable() or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name):
            raise click.UsageError(f"--header: {name!r}: a header is a name and a printable value")
    return Message(body, content_type, {**base.headers, **named}, {**base.attributes, **given})


def _pairs(option: str, texts: Sequence[str], separator: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            raise click.UsageError(f"{option}: {text!r} is not of the form NAME{separator}VALUE")
        yield name.strip(), value


def _body(text: str) -> bytes:
    if text == "@-":
        return sys.stdin.buffer.read()
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_bytes()
        except OSError as error:
            raise click.UsageError(f"--data: {text[1:]}: {error.strerror}") from error
    return text.encode()


def _content_type(body: bytes) -> str:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return "text/plain; charset=utf-8"
    return "application/json"
