"""The plugin in examples/plugin has fewer than forty lines, and every feature of the built-in sources."""

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

from servers.scripted import Answer, Call, scripted

from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http.gateway import Gateway
from trigger_sources.observe.metrics import exposition
from trigger_sources.stores.sqlite import Store

SOURCE = Path(__file__).resolve().parents[4] / "examples" / "plugin" / "folder_source.py"


def folder_trigger() -> Any:
    spec = importlib.util.spec_from_file_location("folder_source", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["folder_source"] = module
    spec.loader.exec_module(module)
    return module.FolderTrigger


async def test_a_plugin_has_fewer_than_forty_lines_and_gets_everything(tmp_path: Path) -> None:
    assert len(SOURCE.read_text().splitlines()) < 40
    (tmp_path / "in").mkdir()
    tries: dict[bytes, int] = {}

    async def decide(call: Call) -> Answer:
        tries[call.body] = tries.get(call.body, 0) + 1
        if call.body == b"poison":
            return 422
        return 503 if tries[call.body] < 3 else 200

    trigger = folder_trigger().model_validate(
        {
            "function": "f",
            "folder": str(tmp_path / "in"),
            "filter": "!event.subject.endsWith('.tmp')",
            "delivery": {"backoffSeconds": 0.01, "backoffMaxSeconds": 0.02},
        }
    )
    async with scripted(decide) as function, Store.open(tmp_path / "state.db") as store:
        gate = Gate("f", function.url)
        host = LocalHost(replica="r", store=store, gateway=Gateway(), secrets=lambda n, r: "", defaults={})
        flow = Flow(
            trigger, kind="FolderTrigger", namespace="default", name="t", uid="u", function="f",
            gate=gate, host=host, gate_of=lambda name: gate,
        )  # fmt: skip
        runner = asyncio.create_task(flow.run())
        for name, text in (("a.txt", b"a"), ("b.txt", b"b"), ("c.bad", b"poison"), ("d.tmp", b"left out")):
            (tmp_path / "in" / name).write_bytes(text)
        async with asyncio.timeout(10):
            while len(list((tmp_path / "in").glob("done/*"))) < 4:
                await asyncio.sleep(0.02)
        assert flow.dead_letters is not None
        letters = [letter async for letter in flow.dead_letters.letters()]
        counters = flow.dispatcher.counters
        text = exposition([flow.reading()])
        await flow.stop(1)
        await runner
        await gate.aclose()
    assert tries == {b"a": 3, b"b": 3, b"poison": 1}, "retried without a line for it"
    assert [(letter.event.data, letter.reason) for letter in letters] == [(b"poison", "PermanentAnswer")]
    assert (counters.delivered, counters.filtered, counters.deadLettered) == (2, 1, 1)
    assert 'kubeirq_events_delivered_total{kind="FolderTrigger"' in text
