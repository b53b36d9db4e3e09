"""Replies to a NATS subject: a stream drops a repeat of the same delivery's reply, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import nats
import pytest
from servers.fabric import fabric, manifest
from servers.nats import NATSServer, nats_server
from servers.nats_source import reading, trigger
from servers.ports import free_port
from servers.scripted import Answer, Call, scripted

from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.dispatch.held import Identity
from trigger_sources.dispatch.reply_sender import ReplySender
from trigger_sources.events import Event
from trigger_sources.nats.reply import NATSReply
from trigger_sources.publisher import Publisher, ReplyRefused
from trigger_sources.testing import StandInContext


async def settle(outcome: Outcome) -> None:
    raise AssertionError("a reply settles nothing")


def delivery(position: str | None, source: str = "/a", identity: str = "X") -> Delivery:
    return Delivery(Event(identity, source, "t", b"1"), settle, position)


async def reply(publisher: Publisher, to: Delivery, *, uid: str = "u", event: Event | None = None) -> None:
    """Publishes the event that the function got, unless it returned another."""
    identity = Identity("NATSTrigger", "default", "t", uid, "f")
    await ReplySender(publisher, identity, {}, lambda failures: 0.0, lambda problem: None).publish(
        to, event or to.event
    )


@asynccontextmanager
async def publishing(server: NATSServer, *subjects: str) -> AsyncIterator[list[Publisher]]:
    context = StandInContext()
    yield [await NATSReply(subject=name, servers=[server.url]).open(context, {}) for name in subjects]
    await context.close()


async def stream(server: NATSServer, *subjects: str, **config: Any) -> None:
    connection = await nats.connect(server.url)
    await connection.jetstream().add_stream(name="ST", subjects=list(subjects), **config)
    await connection.close()


async def kept(server: NATSServer) -> int:
    connection = await nats.connect(server.url)
    found = (await connection.jetstream().stream_info("ST")).state.messages
    await connection.close()
    return found


async def test_a_repeated_delivery_is_published_once_and_every_other_delivery_arrives() -> None:
    async with nats_server() as server, publishing(server, "st.one", "st.two") as (one, two):
        await stream(server, "st.>")
        await reply(one, delivery("s@1/1"))
        await reply(one, delivery("s@1/1"))  # the fabric was killed before it settled the event
        assert await kept(server) == 1
        for number, (publisher, other, uid) in enumerate(
            (
                (one, delivery("s@1/1", source="/b"), "u"),
                (one, delivery("s@1/2"), "u"),
                (one, delivery("s@1/1"), "another trigger"),
                (two, delivery("s@1/1"), "u"),
                (one, delivery(None), "u"),
                (one, delivery(None), "u"),
            ),
            2,
        ):
            await reply(publisher, other, uid=uid)
            assert await kept(server) == number


async def test_a_reply_that_its_stream_never_takes_is_refused_and_not_tried_again() -> None:
    async with nats_server() as server, publishing(server, "st.one") as (one,):
        await stream(server, "st.>", max_msg_size=1_000)
        with pytest.raises(ReplyRefused, match="max_msg_size"):
            await reply(one, delivery("s@1/1"), event=Event("1", "/a", "t", b"x" * 1_000))
        assert await kept(server) == 0


async def test_a_stream_that_confirms_nothing_gets_the_reply() -> None:
    async with nats_server() as server, publishing(server, "st.one") as (one,):
        await stream(server, "st.>", no_ack=True)
        async with asyncio.timeout(20):
            await reply(one, delivery("s@1/1"))
        assert await kept(server) == 1


async def test_a_reply_with_more_attributes_than_a_stream_takes_as_headers_arrives() -> None:
    async with nats_server() as server, publishing(server, "st.one") as (one,):
        await stream(server, "st.>")
        event = Event("1", "/a", "t", b"\xff", "x/y", extensions={"big": "é" * 40_000})
        await reply(one, delivery("s@1/1"), event=event)
        async with reading(trigger(server.url, subject="st.one")) as reader:
            (found,) = await reader.until(1)
            assert found.event.attributes().items() >= event.attributes().items()
            assert found.event.data == b"\xff"


async def test_a_function_that_passes_on_its_event_within_one_stream_loses_none(tmp_path: Path) -> None:
    seen: list[str] = []

    async def pass_on(call: Call) -> Answer:
        event = {name: value for name, value in call.headers.items() if name.startswith("ce-")}
        if call.target == "/last":
            seen.append(event["ce-id"])
            return 204, {}, b""
        return 200, event, call.body

    port = free_port()
    async with nats_server() as server, scripted(pass_on) as target:
        await stream(server, "st.>")

        def stage(kind: str, name: str, called: str, to: str | None, **spec: Any) -> dict[str, Any]:
            target_of = {} if to is None else {"reply": {"nats": {"subject": to, "servers": [server.url]}}}
            return manifest(kind, name, url=f"{target.url}{called}", **target_of, **spec)

        manifests = [
            stage("HTTPTrigger", "in", "", "st.one", path="/in", methods=["POST"], answer="accepted"),
            stage("NATSTrigger", "first", "two", "st.two", subject="st.one", servers=[server.url]),
            stage("NATSTrigger", "second", "last", None, subject="st.two", servers=[server.url]),
        ]
        async with fabric(tmp_path / "m", tmp_path / "s", http_port=port, manifests=manifests):
            async with aiohttp.ClientSession() as session, asyncio.timeout(30):
                for source in ("/a", "/b"):
                    headers = {"ce-specversion": "1.0", "ce-id": "X", "ce-source": source, "ce-type": "t"}
                    async with session.post(f"http://127.0.0.1:{port}/in", headers=headers, data=b"1") as answer:
                        assert answer.status == 202
                while len(seen) < 2:
                    await asyncio.sleep(0.02)
    assert seen == ["X", "X"]
