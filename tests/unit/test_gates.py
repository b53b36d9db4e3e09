"""Which functions of a cluster can be called, told from Functions and EndpointSlices."""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from controllers.gates import Gates, ready_endpoints

GREET = {"metadata": {"namespace": "default", "name": "greet", "labels": {"app": "shop"}}}


def slice_of(*ready: bool | None, name: str = "greet-1", service: str = "greet") -> dict[str, Any]:
    conditions = [{} if found is None else {"ready": found} for found in ready]
    return {
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": found} for found in conditions],
    }


@pytest_asyncio.fixture
async def gates() -> AsyncIterator[Gates]:
    found = Gates()
    yield found
    await found.aclose()


def test_an_endpoint_that_does_not_say_is_ready_as_kubernetes_has_it() -> None:
    assert ready_endpoints(slice_of(None, True, False)) == 2
    assert ready_endpoints({"metadata": {}, "endpoints": None}) == 0


async def test_before_anything_is_known_nothing_is_taken_for_down(gates: Gates) -> None:
    assert not gates.of("default", "greet").is_down


async def test_a_gate_opens_with_the_first_ready_endpoint_and_closes_with_the_last(gates: Gates) -> None:
    gate = gates.of("default", "greet")
    gates.listed([], [])
    assert gate.down_reason == "there is no Function 'greet' in namespace 'default'"
    gates.function_seen(GREET)
    assert gate.down_reason == "no replica is ready"
    gates.slice_seen(slice_of(False))
    assert gate.is_down
    gates.slice_seen(slice_of(False, True))
    assert not gate.is_down
    gates.slice_seen(slice_of(True, name="greet-2"))
    gates.slice_seen(slice_of(False), gone=True)
    assert not gate.is_down, "the other slice has one"
    gates.slice_seen(slice_of(False, name="greet-2"))
    assert gate.down_reason == "no replica is ready"


async def test_another_service_opens_nothing(gates: Gates) -> None:
    gates.listed([GREET], [slice_of(True, service="other")])
    assert gates.of("default", "greet").is_down


async def test_a_function_that_went_holds_its_events_until_it_is_back(gates: Gates) -> None:
    gates.listed([GREET], [slice_of(True)])
    gate = gates.of("default", "greet")
    assert not gate.is_down
    assert gates.function_seen(GREET, gone=True)
    assert gate.is_down
    assert gates.function_seen(GREET)
    assert not gate.is_down


async def test_only_names_and_labels_make_a_function_another(gates: Gates) -> None:
    gates.listed([GREET], [])
    assert not gates.function_seen({**GREET, "status": {"replicas": 1}})
    assert gates.functions("default") == [("greet", {"app": "shop"})]
    assert gates.functions("other") == []
    assert gates.function_seen({"metadata": {**GREET["metadata"], "labels": {}}})
