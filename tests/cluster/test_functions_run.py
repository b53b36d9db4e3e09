"""Functions as pods on a real node: they answer, change without a failed request, and report problems."""

import asyncio
from typing import Any

import aiohttp
import pytest
from servers.cluster import Cluster, Namespace, condition_of, function
from servers.images import PYTHON
from servers.load import load
from servers.package_index import add_wheel

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]

PORT = 8080


def answering(text: str) -> str:
    return f"def handler(event, context):\n    return {text!r}\n"


async def answer_of(place: Namespace, name: str, body: Any = None) -> str:
    """The function's answer through its Service."""
    async with aiohttp.ClientSession() as session:
        async with session.post(f"http://{await place.until_reached(name)}:{PORT}/", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.text()


async def test_a_function_with_inline_source_answers_through_its_service(place: Namespace):
    source = "def handler(event, context):\n    return {'got': event['data'], 'by': context['function-name']}\n"
    await place.apply(function("greet", source))
    await place.until_ready("Function", "greet")
    assert await answer_of(place, "greet", {"n": 1}) == '{"got":{"n":1},"by":"greet"}'


async def test_dependencies_are_installed_from_the_index_that_the_chart_names(place: Namespace, cluster: Cluster):
    add_wheel(cluster.packages, "greetings", "1.2", "def greeting():\n    return 'good morning'\n")
    source = "import greetings\n\ndef handler(event, context):\n    return greetings.greeting()\n"
    await place.apply(function("polite", source, dependencies="greetings==1.2\n"))
    await place.until_ready("Function", "polite")
    assert await answer_of(place, "polite") == "good morning"


async def test_a_change_and_its_rollback_fail_no_request_on_new_or_kept_connections(place: Namespace):
    await place.apply(function("change", answering("one")))
    await place.until_ready("Function", "change")
    address = await place.until_reached("change")
    async with load(address, PORT, keep=False) as anew, load(address, PORT, keep=True) as kept:
        await asyncio.gather(anew.until_answered("one", 20), kept.until_answered("one", 20))
        before = await _code(place)
        await place.apply(function("change", answering("two")))
        await asyncio.gather(anew.until_answered("two", 60), kept.until_answered("two", 60))
        both = await _code(place)
        await place.apply(function("change", answering("one")))
        await asyncio.gather(anew.until_answered("one", 60), kept.until_answered("one", 60))
    assert anew.failures == []
    assert kept.failures == []
    print(f"\n{anew.answers.total()} requests on new connections, {kept.answers.total()} on kept ones")
    assert len(before) == 1
    assert len(both) == 2
    assert before < both
    assert await _code(place) == both, "the way back is to the old ConfigMap"


async def test_a_broken_new_version_stops_no_requests_and_reports_the_reason(place: Namespace):
    await place.apply(function("fragile", answering("fine")))
    await place.until_ready("Function", "fragile")
    async with load(await place.until_reached("fragile"), PORT, keep=False) as requests:
        await place.apply(function("fragile", "import nothing_of_this_name\n"))
        stuck = await place.until_condition("Function", "fragile", "Ready", "RolloutStuck")
        assert stuck["status"] == "False"
        assert "the old version still serves" in stuck["message"]
        assert "No module named 'nothing_of_this_name'" in stuck["message"]
        serving = condition_of(await place.get("Function", "fragile"), "Available")
        assert serving["status"] == "True"
        await requests.until_answered("fine", 20)
        await place.apply(function("fragile", answering("mended")))
        await place.until_ready("Function", "fragile")
        await requests.until_answered("mended", 60)
    assert requests.failures == []


async def test_objects_changed_or_deleted_by_hand_are_repaired_within_seconds(place: Namespace):
    await place.apply(function("steady", answering("here")))
    await place.until_ready("Function", "steady")
    await place.kubectl("set", "env", "deployment/steady", "--containers=function", "FUNC_HANDLER=nothing")
    await place.until("Deployment", "steady", lambda found: "nothing" not in str(found["spec"]), 10)
    await place.kubectl("delete", "deployment", "steady")
    await place.until("Deployment", "steady", lambda found: found is not None, 10)
    await place.until_ready("Function", "steady")
    assert await answer_of(place, "steady") == "here"


async def test_the_reason_why_a_function_does_not_start_is_reported_with_the_way_out(place: Namespace):
    greedy = "hoard = bytearray(400_000_000)\n"
    ended = "import sys\n\nsys.exit('no licence')\n"
    await place.apply(
        function("greedy", greedy, resources={"limits": {"memory": "64Mi"}}),
        function("ending", ended),
        function("imageless", answering("x"), image="localhost/nowhere:1"),
        function("lacking", answering("x"), dependencies="no-such-package-anywhere==1.0\n"),
    )
    found = await place.until_condition("Function", "greedy", "Ready", "OutOfMemory")
    assert "spec.resources.limits.memory, which is 64Mi" in found["message"]
    found = await place.until_condition("Function", "ending", "Ready", "CrashLoopBackOff")
    assert "no licence" in found["message"]
    found = await place.until_condition("Function", "imageless", "Ready", "ImagePullBackOff")
    assert "localhost/nowhere:1" in found["message"]
    assert "check whether the node reaches it" in found["message"]
    found = await place.until_condition("Function", "lacking", "Ready", "DependenciesFailed")
    assert "spec.dependencies" in found["message"]
    assert "no-such-package-anywhere" in found["message"]
    for name in ("greedy", "ending", "imageless", "lacking"):
        available = condition_of(await place.get("Function", name), "Available")
        assert available["status"] == "False", name


async def test_a_function_that_uses_too_much_memory_later_fails_that_call_and_serves_on(place: Namespace):
    source = "def handler(event, context):\n    return str(len(bytearray(int(event['data']))))\n"
    await place.apply(function("hungry", source, resources={"limits": {"memory": "96Mi"}}))
    await place.until_ready("Function", "hungry")
    async with aiohttp.ClientSession() as session:
        async with session.post(f"http://{await place.until_reached('hungry')}:{PORT}/", json=400_000_000) as answer:
            assert answer.status == 500
    assert await answer_of(place, "hungry", 1000) == "1000"
    (pod,) = await place.pods("hungry")
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


async def test_a_custom_image_serves_without_a_catalogue_runtime(place: Namespace):
    await place.apply(function("own", answering("mine"), image=PYTHON))
    await place.until_ready("Function", "own")
    assert await answer_of(place, "own") == "mine"


async def _code(place: Namespace) -> set[str]:
    """The names of the ConfigMaps with the function's code."""
    return {found["metadata"]["name"] for found in await place.all_of("ConfigMap")} - {"kube-root-ca.crt"}
