"""An edit of the place of dead letters: those in the former place are listed, counted, redriven and purged."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from servers.flow_admin import no_secrets
from servers.kafka import shared_kafka
from servers.letters import letter
from servers.nats import nats_server
from servers.ports import free_port
from servers.scripted import Answer, Call, scripted

from trigger_sources.dead_letters import DeadLetters
from trigger_sources.dispatch.flows import Flows, TriggerResource
from trigger_sources.dispatch.former_places import former_places, remember_place
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http.gateway import Gateway
from trigger_sources.kafka import KafkaTrigger
from trigger_sources.nats import NATSTrigger
from trigger_sources.observe.admin import FlowAdmin, served
from trigger_sources.source import TriggerSource
from trigger_sources.stores.none import NoDeadLetters
from trigger_sources.stores.sqlite import Store
from trigger_sources.testing import StandInContext

Edit = dict[str, Any]


def spec_of(edit: Edit) -> Edit:
    """The fields of a NATSTrigger after an edit; `name` is that of the dead letters' stream."""
    fields = {field: value for field, value in edit.items() if field != "name"}
    place = {"delivery": {"deadLetter": {"name": edit["name"]}}} if "name" in edit else {}
    return {"function": "f", "subject": "s.x", "createStream": True, **fields, **place}


class Edited:
    """A NATSTrigger that runs, and is edited."""

    def __init__(self, flows: Flows, store: Store, url: str, ask: Callable[..., Any]) -> None:
        self.flows, self.store, self.url, self.ask = flows, store, url, ask
        self.trigger: TriggerResource

    async def edit(self, edit: Edit) -> None:
        spec = NATSTrigger.model_validate(spec_of(edit))
        self.trigger = TriggerResource("NATSTrigger", "default", "t", spec, "uid-t")
        await self.flows.apply({("uid-t", "f"): self.trigger}, 1)
        async with asyncio.timeout(30):
            while not self.flow.status().ready:
                await asyncio.sleep(0.02)

    @property
    def flow(self) -> Any:
        (running,) = self.flows.of("uid-t")
        return running.flow

    async def write(self, number: int) -> None:
        """A dead letter in the place that the spec names now."""
        mine = replace(letter(str(number), function="f"), trigger_uid="uid-t")
        await self.flow.dispatcher.letters.write(lambda: mine)

    async def until_counted(self, count: int) -> None:
        async with asyncio.timeout(30):
            while self.flow.status().dead_letters != count:
                await asyncio.sleep(0.02)

    async def listed(self) -> list[str]:
        found = await self.ask("GET", "/dead-letters")
        assert found["unreadable"] == []
        return sorted(one["position"] for one in found["deadLetters"])


@asynccontextmanager
async def edited(tmp_path: Path, url: str) -> AsyncIterator[Edited]:
    gate = Gate("f", url)
    async with Store.open(tmp_path / "state.db") as store:
        host = LocalHost(replica="r", store=store, gateway=Gateway(), secrets=no_secrets, defaults={})
        flows = Flows(host, lambda namespace, name: gate)
        api = FlowAdmin(flows, lambda: {"uid-t": it.trigger}, replica="r", idle=lambda _: ("NotHere", "elsewhere"))

        async def ask(method: str, path: str, body: Any = None) -> Any:
            connector = aiohttp.UnixConnector(path=str(tmp_path / "admin.sock"))
            async with aiohttp.ClientSession(connector=connector) as session:
                address = f"http://admin/v1/triggers/default/NATSTrigger/t{path}"
                async with session.request(method, address, json=body) as answer:
                    text = await answer.text()
            assert answer.status == 200, text
            return json.loads(text.splitlines()[-1])

        it = Edited(flows, store, url, ask)
        try:
            async with served(api.application(), tmp_path / "admin.sock"):
                yield it
        finally:
            await flows.stop(1)
            await gate.aclose()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"mode": "jetstream"}, {"mode": "core"}),
        ({"mode": "core"}, {"mode": "jetstream"}),
        ({"servers": 0}, {"servers": 1}),
        ({"name": "one"}, {"name": "two"}),
        ({}, {"name": "one"}),
        ({"name": "one"}, {}),
        ({"servers": 0, "name": "one"}, {"servers": 1, "mode": "core"}),
    ],
)
async def test_dead_letters_in_a_former_place_are_listed_counted_redriven_and_purged(
    tmp_path: Path, first: Edit, then: Edit
) -> None:
    async with AsyncExitStack() as stack:
        function = await stack.enter_async_context(scripted())
        servers = [(await stack.enter_async_context(nats_server())).url for _ in range(2)]
        it = await stack.enter_async_context(edited(tmp_path, function.url))
        first, then = ({**edit, "servers": [servers[edit.get("servers", 0)]]} for edit in (first, then))
        await it.edit(first)
        for number in range(3):
            await it.write(number)
        await it.edit(then)
        await it.until_counted(3)
        await it.write(3)
        assert await it.listed() == ["0", "1", "2", "3"]
        done = await it.ask("POST", "/dead-letters/redrive", {"identities": ["f/0"]})
        assert (done["delivered"], done["failed"]) == (1, 0)
        assert len(function.calls) == 1
        assert await it.ask("POST", "/dead-letters/purge", {"identities": ["f/1"]}) == {
            "purged": 1, "missing": [], "unreadable": [],
        }  # fmt: skip
        assert await it.listed() == ["2", "3"]
        assert it.flow.status().dead_letters == 2
        await it.edit(first)
        await it.until_counted(2)
        assert await it.listed() == ["2", "3"], "an edit back has both, too"


async def test_a_dead_letter_of_a_former_place_that_fails_again_moves_to_the_present_one(tmp_path: Path) -> None:
    async def refuse(call: Call) -> Answer:
        return 400

    async with scripted(refuse) as function, nats_server() as nats, edited(tmp_path, function.url) as it:
        await it.edit({"servers": [nats.url]})
        await it.write(0)
        await it.edit({"servers": [nats.url], "mode": "core"})
        await it.until_counted(1)
        assert (await it.ask("POST", "/dead-letters/redrive", {}))["failed"] == 1
        assert await it.listed() == ["0"]
        assert it.flow.status().dead_letters == 1
        assert await it.flow.dead_letters.count() == 1, "it is in the store of a core subject"


async def test_another_address_of_the_same_servers_is_no_other_place(tmp_path: Path) -> None:
    async with scripted() as function, nats_server() as nats, edited(tmp_path, function.url) as it:
        await it.edit({"servers": [nats.url]})
        await it.write(0)
        await it.edit({"servers": [nats.url.replace("127.0.0.1", "localhost")]})
        await it.until_counted(1)
        assert await it.listed() == ["0"]


async def test_a_former_place_out_of_reach_is_said_and_the_present_one_is_listed(tmp_path: Path) -> None:
    async with scripted() as function, nats_server() as nats, edited(tmp_path, function.url) as it:
        async with nats_server() as former:
            await it.edit({"servers": [former.url]})
            await it.write(0)
        await it.edit({"servers": [nats.url]})
        await it.write(1)
        found = await it.ask("GET", "/dead-letters")
        assert [one["position"] for one in found["deadLetters"]] == ["1"]
        (said,) = found["unreadable"]
        assert said.startswith(f'dead letters of the time when spec.servers was ["{former.url}"] are out of reach')


async def test_the_dead_letters_of_a_former_place_are_counted_once_it_is_in_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trigger_sources.dispatch.flow._UNREACHED_FIRST_SECONDS", 0.2)
    monkeypatch.setattr("trigger_sources.dispatch.former_places._REACH_SECONDS", 0.2)
    async with scripted() as function, nats_server() as nats, nats_server() as former:
        async with edited(tmp_path, function.url) as it:
            await it.edit({"servers": [former.url]})
            await it.write(0)
            await former.stop()
            await it.edit({"servers": [nats.url]})
            await it.write(1)
            async with asyncio.timeout(30):
                while "former dead letters out of reach" not in caplog.messages:
                    await asyncio.sleep(0.02)
            await it.until_counted(1)
            await former.start()
            await it.until_counted(2)


class EditedKafka:
    def __init__(self, context: StandInContext) -> None:
        self.context, self.said = context, list[str]()

    async def named(self, bootstrap: Sequence[str], name: str | None) -> DeadLetters:
        """The present place of a trigger with these brokers and that name, as a flow begins with it."""
        place = {} if name is None else {"delivery": {"deadLetter": {"name": name}}}
        self.trigger: TriggerSource = KafkaTrigger.model_validate(
            {"function": self.context.function, "brokers": bootstrap, "topics": ["t"], **place}
        )
        await remember_place(self.trigger, self.context)
        self.present = self.trigger.dead_letters(self.context)
        assert self.present is not None
        await self.present.prepare()
        return self.present

    async def former(self) -> list[int]:
        """The numbers of letters in the former places."""
        assert self.present is not None
        found = await former_places(self.trigger, self.context, self.present, NoDeadLetters, self.said.append)
        return [await place.count() for place in found]


async def test_kafka_finds_the_dead_letters_of_former_topics_and_brokers() -> None:
    context = StandInContext(name=f"t-{uuid4().hex[:8]}", uid=f"uid-{uuid4().hex[:8]}")
    bootstrap, name = (await shared_kafka()).bootstrap, f"dead-{uuid4().hex[:8]}"
    it = EditedKafka(context)
    try:
        first = await it.named([bootstrap], None)
        mine = replace(letter("0", function=context.function), trigger_uid=context.uid)
        await first.write(mine)
        await it.named([bootstrap], name)
        assert await it.former() == [1]
        await it.named([bootstrap, f"127.0.0.1:{free_port()}"], name)
        assert await it.former() == [1], "the same cluster is no other place"
        await it.named([bootstrap], None)
        assert await it.former() == [0]
        assert it.said == []
    finally:
        await context.close()


@pytest.mark.parametrize("damaged", [b"", b"{", b"null", b"[1]", b"\xff"])
async def test_a_damaged_note_of_former_places_stops_no_trigger(damaged: bytes) -> None:
    context = StandInContext()
    await context.state.put("dead-letter-places", damaged)
    trigger = NATSTrigger.model_validate({
        "function": "f", "subject": "s", "delivery": {"deadLetter": {"name": "letters"}},
    })  # fmt: skip
    await remember_place(trigger, context)
    assert json.loads(context.state.values["dead-letter-places"]) == [
        {"mode": "jetstream", "servers": [], "delivery.deadLetter.name": "letters"}
    ]


@pytest.mark.parametrize("noted", [b"[{}]", b'[{"mode": "core"}]', b'[{"servers": [], "later": 1}]'])
async def test_a_note_of_another_version_is_read(noted: bytes) -> None:
    context = StandInContext()
    await context.state.put("dead-letter-places", noted)
    trigger = NATSTrigger.model_validate({"function": "f", "subject": "s", "servers": ["nats://127.0.0.1:9"]})
    said: list[str] = []
    assert await former_places(trigger, context, NoDeadLetters(), NoDeadLetters, said.append) == []
