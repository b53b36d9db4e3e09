"""Which functions of a cluster can be called, told from Functions and EndpointSlices."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from controllers.triggers.gates import Gates, ready_endpoints

GREET = {"metadata": {"namespace": "default", "name": "greet", "uid": "1", "labels": {"app": "shop"}}}
GREET_AGAIN = {"metadata": {**GREET["metadata"], "uid": "2"}}


def slice_of(*ready: bool | None, name: str = "greet-1", service: str = "greet") -> dict[str, Any]:
    conditions = [{} if found is None else {"ready": found} for found in ready]
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": name,
            "labels": {"kubernetes.io/service-name": service},
        },
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
    gates.replace([], [])
    assert gate.down_reason == "there is no Function 'greet' in namespace 'default'"
    gates.observe_function(GREET)
    assert gate.down_reason == "no replica is ready"
    gates.observe_slice(slice_of(False))
    assert gate.is_down
    gates.observe_slice(slice_of(False, True))
    assert not gate.is_down
    gates.observe_slice(slice_of(True, name="greet-2"))
    gates.observe_slice(slice_of(False), deleted=True)
    assert not gate.is_down, "the other slice has one"
    gates.observe_slice(slice_of(False, name="greet-2"))
    assert gate.down_reason == "no replica is ready"


async def test_another_service_opens_nothing(gates: Gates) -> None:
    gates.replace([GREET], [slice_of(True, service="other")])
    assert gates.of("default", "greet").is_down


async def test_a_function_that_went_holds_its_events_until_it_is_back(gates: Gates) -> None:
    gates.replace([GREET], [slice_of(True)])
    gate = gates.of("default", "greet")
    assert not gate.is_down
    assert gates.observe_function(GREET, deleted=True)
    assert gate.is_down
    assert gates.observe_function(GREET)
    assert not gate.is_down


async def test_only_names_and_labels_make_a_function_another(gates: Gates) -> None:
    gates.replace([GREET], [])
    assert not gates.observe_function({**GREET, "status": {"replicas": 1}})
    assert list(gates.functions("default")) == [("greet", {"app": "shop"})]
    assert list(gates.functions("other")) == []
    assert gates.observe_function({"metadata": {**GREET["metadata"], "labels": {}}})


async def test_what_a_watch_says_while_a_listing_is_under_way_is_newer(gates: Gates) -> None:
    gates.replace([GREET], [slice_of(False)])
    gate = gates.of("default", "greet")
    gates.begin_list()
    gates.observe_slice(slice_of(True))
    gates.replace([GREET], [slice_of(False)])
    assert not gate.is_down, "the listing was asked for before the endpoint became ready"
    gates.begin_list()
    gates.observe_slice(slice_of(True), deleted=True)
    gates.observe_function({"metadata": {**GREET["metadata"], "labels": {"app": "other"}}})
    gates.replace([GREET], [slice_of(True)])
    assert gate.is_down
    assert list(gates.functions("default")) == [("greet", {"app": "other"})]
    gates.begin_list()
    gates.observe_function(GREET, deleted=True)
    gates.replace([GREET], [])
    assert list(gates.functions("default")) == []


async def test_the_late_end_of_an_older_function_is_not_that_of_its_successor(gates: Gates) -> None:
    gates.replace([GREET], [slice_of(True)])
    gate = gates.of("default", "greet")
    gates.observe_function(GREET_AGAIN)
    assert not gates.observe_function(GREET, deleted=True)
    assert not gate.is_down
    assert gates.observe_function(GREET_AGAIN, deleted=True)
    assert gate.is_down


async def test_a_gate_that_nobody_uses_goes_and_comes_back_as_it_would_be(gates: Gates) -> None:
    gates.replace([GREET], [slice_of(True)])
    gate, other = gates.of("default", "greet"), gates.of("default", "other")
    await gates.retain([("default", "greet"), ("default", "never made")])
    assert gates.of("default", "greet") is gate
    assert gates.of("default", "other") is not other
    assert gates.of("default", "other").down_reason == "there is no Function 'other' in namespace 'default'"


async def test_the_edition_of_a_function_changes_with_its_spec_and_no_trigger_looks_again(gates: Gates) -> None:
    edited = {"metadata": {**GREET["metadata"], "generation": 2, "resourceVersion": "8"}}
    assert gates.edition("default", "greet") is None
    assert gates.observe_function({"metadata": {**GREET["metadata"], "generation": 1, "resourceVersion": "7"}})
    assert gates.edition("default", "greet") == ("1", 1)
    assert not gates.observe_function(edited)
    assert gates.edition("default", "greet") == ("1", 2)
    assert gates.observe_function(edited, deleted=True)
    assert gates.edition("default", "greet") is None


async def test_a_flow_that_starts_while_gates_are_removed_gets_a_new_one(gates: Gates) -> None:
    gates.replace([GREET], [slice_of(True)])
    former = gates.of("default", "greet")
    removal = asyncio.create_task(gates.retain(()))
    await asyncio.sleep(0)
    found = gates.of("default", "greet")
    await removal
    assert found is not former
    assert gates.of("default", "greet") is found
    await asyncio.gather(gates.retain(()), gates.aclose())


@pytest.mark.parametrize(
    ("slices", "is_sole"),
    [
        ([slice_of(True)], True),
        ([slice_of(False)], True),
        ([slice_of(True, False)], False),
        ([slice_of(True), slice_of(False, name="greet-2")], False),
        ([slice_of(True), slice_of(name="greet-2"), slice_of(True, name="other-1", service="other")], True),
        ([], False),
    ],
)
async def test_a_function_has_one_replica_if_its_service_has_one_endpoint_ready_or_not(
    gates: Gates, slices: list[dict[str, Any]], is_sole: bool
) -> None:
    gates.replace([GREET], slices)
    assert gates.has_one_replica(("default", "greet")) is is_sole
    gates.replace([GREET], [])
    for found in slices:
        gates.observe_slice(found)
    assert gates.has_one_replica(("default", "greet")) is is_sole
    for found in slices:
        gates.observe_slice(found, deleted=True)
    assert not gates.has_one_replica(("default", "greet"))
