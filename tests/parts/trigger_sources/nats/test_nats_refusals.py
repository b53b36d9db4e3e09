"""Refusals of JetStream: a real server refuses, and the condition says what to type."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from servers.nats import NATSServer, nats_server
from servers.nats_source import JetStream, jetstream, trigger

from trigger_sources.nats.connection import JetStreamError, connection_to
from trigger_sources.source import SourceError
from trigger_sources.testing import StandInContext

OTHER = {"name": "other", "durable_name": "other", "ack_policy": "explicit"}
ACCOUNTS = """
jetstream {{ store_dir: {folder}, max_file_store: 10Mi, max_memory_store: 1Mi }}
accounts {{
  NONE {{ users: [{{ user: none, password: p }}] }}
  SMALL {{ jetstream: {{ max_streams: 1, max_consumers: 1, max_file: 1Mi }}, users: [{{ user: small, password: p }}] }}
  BOUND {{ jetstream: {{ max_file: 1Mi, max_bytes_required: true }}, users: [{{ user: bound, password: p }}] }}
}}
"""


async def consumer(js: JetStream, stream: str, **config: Any) -> None:
    made = {"stream_name": stream, "config": {**OTHER, **config}}
    answer = await js.api(f"CONSUMER.CREATE.{stream}.other", made)
    assert "error" not in answer, answer


async def refusal(server: NATSServer, user: str = "", **spec: Any) -> SourceError:
    """The error of a trigger that starts."""
    login = {"security": {"username": user, "password": {"name": "s", "key": "p"}}} if user else {}
    context = StandInContext(secrets={("s", "p"): "p"})
    found = trigger(server.url, **spec, **login)
    try:
        with pytest.raises(SourceError) as error:
            await found.prepare(context)
            await anext(found.deliveries(context))
        return error.value
    finally:
        await context.close()


@pytest.mark.parametrize("filters", [{"filter_subject": "s.>"}, {"filter_subject": "s.a"}, {}], ids=str)
async def test_a_work_queue_that_another_consumer_reads(filters: dict[str, str]) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"], retention="workqueue")
        await consumer(js, "S", **filters)
        error = await refusal(server, subject="s.>")
        assert error.reason == "JetStreamRefused"
        assert str(error).startswith("stream S: filtered consumer not unique on workqueue stream: another consumer")
        assert "`nats consumer ls S`" in str(error)
        assert "`nats consumer rm S NAME`" in str(error)


async def test_a_stream_that_has_as_many_consumers_as_it_may() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"], max_consumers=1)
        await consumer(js, "S")
        error = await refusal(server, subject="s.>")
        assert str(error).startswith("stream S: maximum consumers limit reached: delete a consumer")


@asynccontextmanager
async def accounts() -> AsyncIterator[NATSServer]:
    with TemporaryDirectory() as folder:
        async with nats_server(config=ACCOUNTS.format(folder=folder), jetstream=False) as server:
            yield server


@pytest.mark.parametrize(
    ("user", "reason", "words"),
    [
        ("none", "NoJetStream", "JetStream not enabled for account: enable JetStream for the account of this login"),
        ("small", "JetStreamRefused", "stream S: maximum number of streams reached: delete a stream"),
        ("bound", "JetStreamRefused", "max bytes set: create the stream yourself"),
    ],
)
async def test_an_account_with_less_than_a_trigger_needs(user: str, reason: str, words: str) -> None:
    async with accounts() as server:
        if user == "small":
            async with jetstream(server.url.replace("//", "//small:p@")) as js:
                await js.create("FIRST", ["first"])
        error = await refusal(server, user, subject="s.>", createStream=True)
        assert error.reason == reason
        assert words in str(error)


REQUESTS: list[tuple[str, Mapping[str, Any], int, str]] = [
    ("STREAM.CREATE.N", {"name": "N", "subjects": ["n"], "storage": "file", "max_bytes": 10**9}, 10047, "account info"),
    ("STREAM.CREATE.N", {"name": "N", "subjects": ["n"], "storage": "file", "num_replicas": 3}, 10074, "replicas to 1"),
    ("STREAM.CREATE.N", {"name": "N", "subjects": ["queue.a"], "storage": "file"}, 10065, "nats stream ls --subject"),
    ("STREAM.CREATE.SEALED", {"name": "SEALED", "subjects": ["n"], "storage": "memory"}, 10058, "info SEALED"),
    ("STREAM.PURGE.SEALED", {}, 10109, "stream SEALED: "),
    (
        "CONSUMER.CREATE.QUEUE.n",
        {"stream_name": "QUEUE", "config": {**OTHER, "name": "n", "durable_name": "n", "deliver_policy": "new"}},
        10101,
        "leave out spec.start",
    ),
]


@pytest.mark.parametrize(("path", "request_", "code", "advice"), REQUESTS, ids=[str(found[2]) for found in REQUESTS])
async def test_a_request_that_the_server_refuses_says_what_to_type(
    path: str, request_: Mapping[str, Any], code: int, advice: str
) -> None:
    with TemporaryDirectory() as folder:
        config = f"jetstream {{ store_dir: {folder}, max_file_store: 10Mi }}"
        async with nats_server(config=config, jetstream=False) as server, jetstream(server.url) as js:
            await js.create("QUEUE", ["queue.>"], retention="workqueue")
            await js.create("SEALED", ["sealed"])
            sealed = {**(await js.api("STREAM.INFO.SEALED"))["config"], "sealed": True}
            assert "error" not in await js.api("STREAM.UPDATE.SEALED", sealed)
            context = StandInContext()
            connection = await connection_to([server.url], None, context)
            with pytest.raises(JetStreamError) as error:
                await connection.api(path, request_)
            assert error.value.code == code, error.value
            assert advice in str(error.value)
            await context.close()


async def test_a_full_stream_says_which_limit_to_raise() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s"], discard="new", max_msgs=1)
        await js.publish("s", 1)
        context = StandInContext()
        connection = await connection_to([server.url], None, context)
        with pytest.raises(JetStreamError, match="maximum messages exceeded: raise max_msgs"):
            await connection.publish("s", [b"2"])
        await context.close()


@pytest.mark.parametrize("kind", ["sealed", "mirror"])
async def test_a_sealed_stream_and_a_mirror_are_read(kind: str) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.publish("s.a", 2)
        if kind == "sealed":
            await js.api("STREAM.UPDATE.S", {**(await js.api("STREAM.INFO.S"))["config"], "sealed": True})
        else:
            await js.create("M", [], mirror={"name": "S"})
        context = StandInContext()
        spec = trigger(server.url, subject="s.>", stream="M" if kind == "mirror" else "S")
        await spec.prepare(context)
        generator = spec.deliveries(context)
        found: list[Any] = []
        while len(found) < 2:
            found += await anext(generator)
        await generator.aclose()  # type: ignore[attr-defined]
        await context.close()
