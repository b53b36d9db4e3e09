"""The commands that send something: call and publish."""

import sys
from pathlib import Path

import click
import orjson

from kubeirq.commands.arguments import FUNCTION, TRIGGER
from kubeirq.commands.open_fabric import with_fabric
from kubeirq.fabric_client import MOST_PUBLISHED, FabricClient


@click.command()
@FUNCTION
@click.option("-d", "--data", default="", help="The request body. @FILE reads a file, @- reads standard input.")
@click.option("--content-type", default=None, help="Default: application/json for valid JSON, else text/plain.")
@with_fabric
async def call(fabric: FabricClient, function: str, data: str, content_type: str | None) -> int:
    """Call a function and print its answer.

    Exit code 1 means that the function did not answer with a 2xx status.
    """
    body = _body(data)
    answer = await fabric.call(function, body, content_type or _content_type(body))
    line_end = b"" if answer.body.endswith(b"\n") or not answer.body else b"\n"
    sys.stdout.buffer.write(answer.body + line_end)
    sys.stdout.buffer.flush()
    if not 200 <= answer.status < 300:
        click.echo(f"status {answer.status}", err=True)
        return 1
    return 0


@click.command()
@TRIGGER
@click.option("-d", "--data", default="", help="The payload. @FILE reads a file, @- reads standard input.")
@click.option("--key", help="The event's key, for sources that have keys.")
@click.option(
    "--count",
    type=click.IntRange(1, MOST_PUBLISHED),
    default=1,
    show_default=True,
    help="Publish the event so many times.",
)
@with_fabric
async def publish(fabric: FabricClient, trigger: str, data: str, key: str | None, count: int) -> int:
    """Publish an event to a trigger's source.

    The source is, for example, its topic, subject or path.
    """
    body = _body(data)
    published = await fabric.publish(trigger, body, _content_type(body), key, count)
    places = f": {', '.join(published.positions[:5])}" if published.positions else ""
    click.echo(f"published {published.count}{places}")
    return 0


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
