"""The page of metrics has every metric by name, with its type, and no other."""

import asyncio
import re
from pathlib import Path
from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from controllers.cluster.api import Api
from controllers.cluster.metrics import controller_metrics
from controllers.functions.controller import FunctionController
from controllers.functions.pod_template import Settings
from trigger_sources.observe.metrics import exposition
from trigger_sources.observe.process import ProcessMetrics

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text()


def types_in(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


async def test_the_page_has_every_metric_with_its_type_and_no_other() -> None:
    functions = FunctionController(cast("Api", None), Settings(runtime_image="r"))
    metrics: list[Any] = [*controller_metrics(), *functions.metrics(), *ProcessMetrics().metrics()]
    text = exposition([], metrics)
    assert list(text_string_to_metric_families(text))
    documented = dict(re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|", PAGE, re.MULTILINE))
    assert documented == types_in(text)


async def test_the_lag_of_a_busy_event_loop_is_measured() -> None:
    process = ProcessMetrics()
    async with process.measuring():
        await asyncio.sleep(0)
        process._lags.append(1.5)
        values = {found.name: found.samples[0].value for found in process.metrics()}
    assert values["kubeirq_event_loop_lag_seconds"] == 1.5
    assert values["process_resident_memory_bytes"] > 10_000_000
    assert values["kubeirq_build_info"] == 1
