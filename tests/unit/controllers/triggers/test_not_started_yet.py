"""The status of a trigger that this replica should run, and has not started yet."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from controllers.triggers.gates import Gates
from controllers.triggers.status_reporter import StatusReporter
from controllers.triggers.trigger_cache import CachedTrigger
from trigger_sources.registry import source_of


def trigger_with(**target: Any) -> CachedTrigger:
    spec = source_of("NATSTrigger").model_validate({"servers": ["nats://x:1"], "subject": "s", **target})
    metadata = {"namespace": "shop", "name": "t", "uid": "u", "generation": 1}
    return CachedTrigger({"kind": "NATSTrigger", "metadata": metadata}, spec, None, (), cast(Any, None), {})


def test_a_replica_that_took_its_lease_back_says_that_the_trigger_starts_once_that_takes_long() -> None:
    held = {"u"}
    flows = cast(Any, SimpleNamespace(of=lambda uid: []))
    none = cast(Any, None)
    reporter = StatusReporter(none, none, flows, Gates(), held.__contains__, asyncio.Event(), none)
    trigger = trigger_with(function="f")
    assert reporter._fields_and_conditions(trigger, 100.0)[1] is None
    assert reporter._fields_and_conditions(trigger, 109.0)[1] is None
    conditions = reporter._fields_and_conditions(trigger, 111.0)[1]
    assert conditions is not None
    assert (conditions[-1].type, conditions[-1].status, conditions[-1].reason) == ("Ready", "False", "Starting")

    held.clear()
    reporter._fields_and_conditions(trigger, 200.0)
    held.add("u")
    assert reporter._fields_and_conditions(trigger, 300.0)[1] is None, "the replica holds the Lease only now"


def test_a_selector_that_matches_no_function_is_told_at_once() -> None:
    flows = cast(Any, SimpleNamespace(of=lambda uid: []))
    none = cast(Any, None)
    reporter = StatusReporter(none, none, flows, Gates(), lambda uid: True, asyncio.Event(), none)
    conditions = reporter._fields_and_conditions(trigger_with(functionSelector={"matchLabels": {"a": "b"}}), 100.0)[1]
    assert conditions is not None
    assert conditions[-1].reason == "NoFunction"
