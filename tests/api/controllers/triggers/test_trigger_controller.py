"""Trigger controllers against a real API server, real brokers and functions at plain addresses."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import nats
import pytest
from servers.controllers import Cluster, cluster, condition, holder_of, resource, without_right_to_secrets
from servers.function import function
from servers.kubernetes import APIServer
from servers.ledger import Books, clean, judge
from servers.nats import nats_server
from servers.recorded_calls import FUNCTION, account, count

from controllers.functions.status import FUNCTION_LABEL


async def published(url: str, numbers: range, subject: str = "orders") -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    for number in numbers:
        await stream.publish(subject, json.dumps({"key": str(number % 10), "n": number}).encode())
    await client.close()


def nats_trigger(name: str, server: str, target: str, **spec: Any) -> dict[str, Any]:
    given = {"servers": [server], "subject": "orders", "stream": "ORDERS", "createStream": True, "url": target}
    return resource("NATSTrigger", name, {**given, **spec})


async def until_counted(ledger: Path, wanted: int, it: Cluster) -> None:
    try:
        async with asyncio.timeout(30):
            while count(ledger) < wanted:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{count(ledger)} of {wanted}\n{it.logs()}") from None


@pytest.mark.timeout(120)
async def test_a_trigger_runs_changes_suspends_and_goes(kubernetes: APIServer, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with (
        cluster(kubernetes, tmp_path) as it,
        nats_server() as server,
        function(FUNCTION, LEDGER=str(ledger)) as f,
    ):
        await it.start("trigger", "nats")
        await it.apply(nats_trigger("orders", server.url, f.url))
        found = await it.until("natstrigger", "orders", lambda found: condition(found)["status"] == "True")
        assert [one["type"] for one in found["status"]["conditions"]] == [
            "Accepted",
            "Connected",
            "Delivering",
            "Ready",
        ]
        await published(server.url, range(10))
        await until_counted(ledger, 10, it)

        await it.apply(nats_trigger("orders", server.url, f.url, suspend=True))
        await it.until("natstrigger", "orders", lambda found: condition(found)["reason"] == "Suspended")
        await published(server.url, range(10, 20))
        assert count(ledger) == 10
        await it.apply(nats_trigger("orders", server.url, f.url, suspend=False, concurrency=3))
        await until_counted(ledger, 20, it)
        await it.until("natstrigger", "orders", lambda found: condition(found)["status"] == "True")

        await it.server.kubectl("delete", "natstrigger", "orders", "--timeout=10s")
        client = await nats.connect(server.url)
        async with asyncio.timeout(20):
            while (await client.jetstream().consumers_info("ORDERS"))[0].num_waiting:
                await asyncio.sleep(0.1)
        await client.close()
        sent = {str(key): list(range(key, 20, 10)) for key in range(10)}
        assert str(account(ledger, sent)) == clean(20)


@pytest.mark.timeout(120)
async def test_a_problem_is_reported_with_field_problem_and_way_out(kubernetes: APIServer, tmp_path: Path) -> None:
    async with cluster(kubernetes, tmp_path) as it, nats_server(config="authorization { token: right }") as server:
        await it.start("trigger", "nats", **await without_right_to_secrets(it, "default"))
        url = "http://127.0.0.1:1/"
        key = {"token": {"name": "nats", "key": "token"}}
        shop = await it.new_namespace()
        elsewhere = nats_trigger("elsewhere", server.url, url, security=key)
        await it.apply(
            nats_trigger("bad-filter", server.url, url, filter="data.total >"),
            nats_trigger("secretless", server.url, url, security=key),
            resource("NATSTrigger", "absent", {"servers": [server.url], "subject": "a", "function": "nobody"}),
            resource("NATSTrigger", "nobody", {"subject": "a", "functionSelector": {"matchLabels": {"app": "x"}}}),
            {**elsewhere, "metadata": {"name": "elsewhere", "namespace": shop}},
        )
        expected = {
            "bad-filter": ("Invalid", "spec.filter: "),
            "secretless": ("SecretMissing", "no Secret 'nats' in namespace 'default'; create it there"),
            "nobody": ("NoFunction", "its selector matches no Function; label one, or change it"),
        }
        for name, (reason, words) in expected.items():
            found = await it.until("natstrigger", name, lambda f, reason=reason: condition(f)["reason"] == reason)
            assert words in condition(found)["message"]
        async with asyncio.timeout(20):
            while condition(found := await it.get("natstrigger", "elsewhere", shop))["reason"] != "SecretForbidden":
                await asyncio.sleep(0.1)
        assert "add it to secretNamespaces in the chart's values" in condition(found)["message"]
        async with asyncio.timeout(10):
            while "Warning  Invalid" not in await it.server.kubectl("describe", "natstrigger", "bad-filter"):
                await asyncio.sleep(0.2)


@pytest.mark.timeout(120)
async def test_larger_bodies_than_the_function_takes_are_reported_until_its_limit_is_raised(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.start("trigger", "http")
        spec: dict[str, Any] = {"source": {"inline": "def handler(event, context): pass"}}
        labels = {"kubernetes.io/service-name": "f", FUNCTION_LABEL: "f"}
        slice_ = {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "f", "labels": labels},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [],
        }  # fmt: skip
        trigger = resource("HTTPTrigger", "f", {"function": "f", "bodyLimitBytes": 9_000_000})
        await it.apply(resource("Function", "f", spec), slice_, trigger)
        found = await it.until("httptrigger", "f", lambda found: condition(found)["reason"] == "BodyLimit")
        assert "FUNC_BODY_LIMIT, value: '9000000'" in condition(found)["message"]
        env = {"env": [{"name": "FUNC_BODY_LIMIT", "value": "9000000"}]}
        await it.apply(resource("Function", "f", {**spec, **env}))
        await it.until("httptrigger", "f", lambda found: condition(found)["status"] == "True")
        # Also below the limit that functions have unless their spec says so
        env = {"env": [{"name": "FUNC_BODY_LIMIT", "value": "1000"}]}
        await it.apply(resource("Function", "f", {**spec, **env}))
        await it.apply(resource("HTTPTrigger", "f", {"function": "f", "bodyLimitBytes": 2000}))
        found = await it.until("httptrigger", "f", lambda found: condition(found)["reason"] == "BodyLimit")
        assert "takes bodies of at most 1000 bytes" in condition(found)["message"]
        await it.apply(resource("HTTPTrigger", "f", {"function": "f", "bodyLimitBytes": 1000}))
        await it.until("httptrigger", "f", lambda found: condition(found)["status"] == "True")


@pytest.mark.timeout(120)
async def test_a_rotated_secret_restarts_only_the_triggers_that_use_it(kubernetes: APIServer, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with (
        cluster(kubernetes, tmp_path) as it,
        nats_server(config="authorization { token: right }") as guarded,
        nats_server() as free,
        function(FUNCTION, LEDGER=str(ledger)) as f,
    ):
        await it.start("trigger", "nats")
        await it.apply(resource("Secret", "nats", {"stringData": {"token": "wrong"}}))
        security = {"token": {"name": "nats", "key": "token"}}
        await it.apply(
            nats_trigger("guarded", guarded.url, f.url, security=security),
            nats_trigger("free", free.url, f.url),
        )
        await it.until("natstrigger", "guarded", lambda found: condition(found)["reason"] == "Unauthorized")
        quiet = await it.until("natstrigger", "free", lambda found: condition(found)["status"] == "True")
        await it.apply(resource("Secret", "nats", {"stringData": {"token": "right"}}))
        await it.until("natstrigger", "guarded", lambda found: condition(found)["status"] == "True")
        assert (await it.get("natstrigger", "free"))["metadata"]["resourceVersion"] == (
            quiet["metadata"]["resourceVersion"]
        )
        log = it.controllers[0].log.read_text()
        assert log.count('"trigger":"default/free"') == 1, "connected once, and left alone"


@pytest.mark.timeout(120)
async def test_a_trigger_calls_the_selected_function_and_holds_events_while_it_is_down(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it, nats_server() as server:
        await it.start("trigger", "nats")
        spec = {"servers": [server.url], "subject": "orders", "stream": "ORDERS", "createStream": True}
        selector = {"functionSelector": {"matchLabels": {"app": "shop"}}}
        await it.apply(resource("NATSTrigger", "orders", {**spec, **selector}))
        await it.until("natstrigger", "orders", lambda found: condition(found)["reason"] == "NoFunction")
        for name in ("a", "b"):
            labelled = resource("Function", name, {"source": {"inline": "def handler(event, context): pass"}})
            labelled["metadata"]["labels"] = {"app": "shop"}
            await it.apply(labelled)
        found = await it.until("natstrigger", "orders", lambda f: (f["status"].get("functions")) == ["a", "b"])
        found = await it.until("natstrigger", "orders", lambda found: condition(found)["reason"] == "FunctionDown")
        assert "no replica is ready" in condition(found)["message"]
        await it.server.kubectl("delete", "function", "a", "--timeout=10s")
        await it.until("natstrigger", "orders", lambda f: f["status"].get("functions") == ["b"])


@pytest.mark.timeout(180)
async def test_at_rest_nothing_is_written_but_leases(kubernetes: APIServer, tmp_path: Path) -> None:
    async with cluster(kubernetes, tmp_path) as it, nats_server() as server:
        await it.start("trigger", "nats")
        names = [f"t{number}" for number in range(20)]
        await it.apply(*(nats_trigger(name, server.url, "http://127.0.0.1:1/") for name in names))
        for name in names:
            await it.until("natstrigger", name, lambda found: condition(found)["status"] is not None)

        def writes() -> list[Any]:
            found = [event for event in it.server.writes(user="admin") if "kubectl" not in event["userAgent"]]
            return [event["objectRef"] for event in found if event["objectRef"]["resource"] != "leases"]

        async with asyncio.timeout(60):
            while True:
                before = len(writes())
                await asyncio.sleep(3)
                if len(writes()) == before:
                    break
        await it.controllers[0].stop()
        await it.controllers[0].start()  # a new replica checks everything, and finds nothing to change
        await asyncio.sleep(20)
        assert writes()[before:] == []


@pytest.mark.timeout(120)
async def test_an_exposed_trigger_has_an_ingress_without_drift_and_reports_its_state(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.start("trigger", "http")
        function = resource("Function", "greet", {"source": {"inline": "def handler(event, context): pass"}})
        way = {"expose": {"ingress": {"className": "nginx"}}, "host": "shop.example"}
        await it.apply(function, resource("HTTPTrigger", "greet", {"function": "greet", **way}))
        found = await it.until("httptrigger", "greet", lambda found: condition(found, "Exposed")["status"])
        assert condition(found)["status"] == "False"
        made = await it.get("ingress", "greet")
        assert made["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == "greet"
        await it.server.kubectl(
            "patch", "ingress", "greet", "--type=json",
            "-p", '[{"op": "replace", "path": "/spec/rules/0/host", "value": "other.example"}]',
        )  # fmt: skip
        await it.until("ingress", "greet", lambda found: found["spec"]["rules"][0]["host"] == "shop.example")
        await it.server.kubectl(
            "patch", "ingress", "greet", "--subresource=status", "--type=merge",
            "-p", '{"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}}}',
        )  # fmt: skip
        found = await it.until("httptrigger", "greet", lambda f: condition(f, "Exposed")["status"] == "True")
        assert found["status"]["address"] == "http://shop.example/greet"
        assert condition(found)["reason"] == "FunctionDown"
        await it.apply(resource("HTTPTrigger", "greet", {"function": "greet", "host": "shop.example"}))
        await it.until("ingress", "greet", lambda found: found is None)


@pytest.mark.timeout(180)
async def test_every_tick_comes_once_while_the_leader_is_killed_again_and_again(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    ticks = "import os\n\ndef handler(event, context):\n"
    ticks += "    with open(os.environ['LEDGER'], 'a') as f: f.write(event['event-id'] + '\\n')\n"
    async with cluster(kubernetes, tmp_path) as it, function(ticks, LEDGER=str(ledger)) as f:
        replicas = [await it.start("trigger", "cron", replica=name) for name in ("one", "two")]
        spec = {"schedule": "* * * * * *", "url": f.url, "catchUp": "all", "delivery": {"onFailure": "drop"}}
        await it.apply(resource("CronTrigger", "tick", spec))
        await it.until("crontrigger", "tick", lambda found: condition(found)["status"] == "True")
        for _ in range(3):
            await until_counted(ledger, count(ledger) + 3, it)
            await it.until("crontrigger", "tick", lambda found: len(open_ticks(found)) <= 2)  # caught up
            holder = await holder_of(it, "CronTrigger", "tick")
            await next(found for found in replicas if found.environment["KUBEIRQ_REPLICA"] == holder).kill()
            await until_counted(ledger, count(ledger) + 1, it)
            await next(found for found in replicas if found.environment["KUBEIRQ_REPLICA"] == holder).start()
        await it.server.kubectl("patch", "crontrigger", "tick", "--type=merge", "-p", '{"spec":{"suspend":true}}')
        await it.until("crontrigger", "tick", lambda found: condition(found)["reason"] == "Suspended", 40)
        ids = ledger.read_text().split()
        assert len({id.rpartition("/")[0] for id in ids}) == 1, "the trigger's uid"
        seconds = sorted(int(datetime.fromisoformat(id.rpartition("/")[2]).timestamp()) for id in ids)
        sent = dict.fromkeys(range(seconds[0], seconds[-1] + 1))
        # At each of three kills, the calls that ran and the ticks that were settled within the last second
        found = judge(Books(sent, seconds, repeatable=3 * 3))
        assert found.holds, found.breaches


def open_ticks(trigger: Any) -> list[str]:
    """The ticks that the status has as started and not as settled."""
    state = trigger["status"]["state"]
    (book,) = [json.loads(value) for name, value in state.items() if name.endswith("/ticks")]
    return list(book["open"])


@pytest.mark.timeout(180)
async def test_requests_that_the_gateway_accepted_survive_kill_9_of_the_controller(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    ledger, sent = tmp_path / "ledger", 0
    async with cluster(kubernetes, tmp_path) as it, nats_server() as store, function(FUNCTION, LEDGER=str(ledger)) as f:
        controller = await it.start("trigger", "http", KUBEIRQ_STORE_NATS_SERVERS=store.url)
        await it.apply(resource("HTTPTrigger", "orders", {"url": f.url, "answer": "accepted", "concurrency": 2}))
        await it.until("httptrigger", "orders", lambda found: condition(found)["status"] == "True")
        address = f"http://127.0.0.1:{controller.port('KUBEIRQ_GATEWAY_PORT')}/orders"
        for _ in range(3):
            async with aiohttp.ClientSession() as session:
                for _ in range(100):
                    async with session.post(address, json={"key": str(sent % 10), "n": sent}) as answer:
                        assert answer.status == 202, await answer.text()
                    sent += 1
            await controller.kill()
            await controller.start()
            await until_served(address, it)
        numbers = {str(key): list(range(key, sent, 10)) for key in range(10)}
        async with asyncio.timeout(60):  # events that the killed one held come back after the store's time-out of 30 s
            while account(ledger, numbers).missing:
                await asyncio.sleep(0.2)
        found = account(ledger, numbers)
        assert len(found.duplicates) <= 3 * 64, "at most the events that were held at each kill"


@pytest.mark.timeout(60)
async def test_the_older_trigger_owns_a_path_and_the_younger_one_reports_the_conflict(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.start("trigger", "http")
        await it.apply(resource("HTTPTrigger", "first", {"url": "http://127.0.0.1:1/", "path": "/orders"}))
        await asyncio.sleep(1.1)  # creation times are whole seconds
        await it.apply(resource("HTTPTrigger", "second", {"url": "http://127.0.0.1:1/", "path": "/orders"}))
        found = await it.until("httptrigger", "second", lambda found: condition(found)["reason"] == "Taken")
        assert "POST /orders is served by HTTPTrigger default/first already" in condition(found)["message"]
        await it.server.kubectl("delete", "httptrigger", "first", "--timeout=10s")
        await it.until("httptrigger", "second", lambda found: condition(found)["reason"] != "Taken")


@pytest.mark.timeout(60)
async def test_a_more_specific_route_of_another_namespace_takes_nothing_from_an_older_one(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.start("trigger", "http")
        shop = await it.new_namespace()
        spec = {"url": "http://127.0.0.1:1/", "path": "/pay/{rest...}"}
        await it.apply(resource("HTTPTrigger", "first", spec, shop))
        await asyncio.sleep(1.1)  # creation times are whole seconds
        await it.apply(resource("HTTPTrigger", "second", {**spec, "path": "/pay/card"}))
        found = await it.until("httptrigger", "second", lambda found: condition(found)["reason"] == "Taken")
        assert f"some of /pay/{{rest...}} is served by HTTPTrigger {shop}/first already" in condition(found)["message"]
        await it.until("httptrigger", "second", lambda found: "served" not in found["status"])
        await it.apply(resource("HTTPTrigger", "second", {**spec, "path": "/elsewhere"}))
        await it.until("httptrigger", "second", lambda found: "POST /elsewhere" in str(found["status"].get("served")))
        await it.apply(resource("HTTPTrigger", "first", {**spec, "path": "/elsewhere"}, shop))
        async with asyncio.timeout(20):  # though it is older: it did not exist when the other took the route
            while condition(await it.get("httptrigger", "first", shop))["reason"] != "Taken":
                await asyncio.sleep(0.1)
        assert condition(await it.get("httptrigger", "second"))["reason"] != "Taken"
        await it.server.kubectl("delete", "httptrigger", "second", "--timeout=10s")
        async with asyncio.timeout(20):
            while condition(await it.get("httptrigger", "first", shop))["reason"] == "Taken":
                await asyncio.sleep(0.1)


@pytest.mark.timeout(60)
async def test_a_trigger_that_calls_a_forbidden_address_is_rejected_at_admission(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.start("trigger", "cron", KUBEIRQ_REACH_ALLOW="")
        spec = {"schedule": "@yearly", "url": "http://127.0.0.1:1/"}
        await it.apply(resource("CronTrigger", "metadata", {**spec, "url": "http://169.254.169.254/latest"}))
        await it.apply(resource("CronTrigger", "other", {**spec, "url": "http://pay.kube-system.svc/"}))
        for name, problem in (("metadata", "link-local"), ("other", "a Service of another namespace, 'kube-system'")):
            found = await it.until("crontrigger", name, lambda found: condition(found)["reason"] == "OutOfReach")
            assert problem in condition(found, "Accepted")["message"]
        await it.apply(resource("CronTrigger", "other", {**spec, "url": "http://pay/"}))
        await it.until("crontrigger", "other", lambda found: condition(found, "Accepted")["status"] == "True")


async def until_served(address: str, it: Cluster) -> None:
    """Returns when the gateway listens."""
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(address) as answer:
                        if answer.status == 405:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(it.logs()) from None
