"""No request of one team's trigger reaches the function of another team, in any sequence of edits and faults."""

import asyncio
import json
from contextlib import AsyncExitStack
from functools import cache
from itertools import count
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from controllers.triggers.ownership import Key, Ownership, ownership_fields, ownership_in_status
from controllers.triggers.trigger_cache import spec_of
from trigger_sources.http.gateway import Bounds, Gateway
from trigger_sources.http.routes import Found, RouteTable
from trigger_sources.http.source import HTTPTrigger
from trigger_sources.source import SourceError

KEYS: list[Key] = [("HTTPTrigger", namespace, name) for namespace in ("a", "b") for name in ("one", "two")]
PATHS = ["/pay", "/pay/{id}", "/pay/card", "/{all...}", "/pay/{rest...}"]
METHODS = [["POST"], ["GET"], ["POST", "GET"]]
REQUESTS = [(method, path) for method in ("GET", "POST", "HEAD") for path in ("/pay", "/pay/card", "/pay/x", "/new")]

keys = st.sampled_from(KEYS)
edits = st.tuples(st.just("edit"), keys, st.sampled_from(PATHS), st.sampled_from(METHODS))
faults = st.tuples(st.sampled_from(["break", "suspend", "lose secret", "find secret", "delete", "write status"]), keys)
steps = st.lists(st.one_of(edits, edits, faults, faults, st.just(("restart",))), max_size=25)

Object = dict[str, Any]


@cache
def _parsed(spec: str) -> HTTPTrigger | None:
    found = spec_of({"kind": "HTTPTrigger", "metadata": {"uid": ""}, "spec": json.loads(spec)})[0]
    assert found is None or isinstance(found, HTTPTrigger)
    return found


def parsed(trigger: Object) -> HTTPTrigger | None:
    """The spec, None if it is not valid."""
    return _parsed(json.dumps(trigger["spec"]))


def served(gateway: Gateway, method: str, path: str) -> str:
    """The uid of the trigger whose function gets the request, or the status code of the gateway's own answer."""
    found = gateway._routes.match("", method, path.split("/")[1:])
    if not isinstance(found, Found):
        return "404"
    return "503" if found.value._closed else found.route.trigger


def covers(spec: HTTPTrigger, key: Key, method: str, path: str) -> bool:
    table: RouteTable[None] = RouteTable()
    route = spec.route(key[2])
    assert route is not None
    table.add(route, None)
    return isinstance(table.match("", method, path.split("/")[1:]), Found)


class Replica:
    """One controller: its decisions, and a real gateway that does not listen."""

    def __init__(self) -> None:
        self.ownership = Ownership()
        self.gateway = Gateway(Bounds(vacant_seconds=0))
        self.objects: dict[Key, Object] = {}
        self.running: dict[Key, AsyncExitStack] = {}

    async def observe(self, key: Key, found: Object | None, secrets: set[Key]) -> None:
        before = self.objects.pop(key, None)
        if found is None:
            affected = self.ownership.remove(key)
            if before is not None:
                self.gateway.hold(before["metadata"]["uid"], ())
                await self.stop(key)
        else:
            self.objects[key] = dict(found)
            affected = self.ownership.update(key, self.objects[key], parsed(found)) | {key}
        for other in sorted(affected & self.objects.keys()):
            await self.reconcile(other, secrets)
        for other in sorted(self.objects.keys() - self.running.keys()):
            await self.reconcile(other, secrets)  # a flow whose route is taken tries again

    async def reconcile(self, key: Key, secrets: set[Key]) -> None:
        uid, spec = self.objects[key]["metadata"]["uid"], parsed(self.objects[key])
        self.gateway.hold(uid, self.ownership.routes_of(key))
        await self.stop(key)
        if spec is None or spec.suspend or key not in secrets or self.ownership.conflict_of(key) is not None:
            return
        route = spec.route(key[2])
        assert route is not None
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.gateway.requests(uid, route))
            except SourceError:
                return
            self.running[key] = stack.pop_all()

    async def stop(self, key: Key) -> None:
        if key in self.running:
            await self.running.pop(key).aclose()
        for _ in range(3):
            await asyncio.sleep(0)  # its route is vacant for a moment


class World:
    """The objects of the API server, two replicas, and the trigger whose function answered each request last."""

    def __init__(self) -> None:
        self.numbers = count(1)
        self.objects: dict[Key, Object] = {}
        self.secrets = set(KEYS)
        self.replicas = [Replica(), Replica()]
        self.answered: dict[tuple[str, str], tuple[Key, str, str]] = {}  # key, uid and path of the route

    async def do(self, step: tuple[Any, ...]) -> None:
        for (
            key
        ) in self.objects:  # a status is written within a second or two; a fault of the same trigger may be faster
            if step[0] in ("restart", "edit") or key != step[1]:
                await self.write_status(key)
        if step == ("restart",):
            replica = Replica()
            self.replicas = [self.replicas[1], replica]
            for key in reversed(self.objects):
                await replica.observe(key, self.objects[key], self.secrets)
            return
        name, key, *rest = step
        found = self.objects.get(key)
        match name:
            case "edit":
                self.edit(key, {"function": "f", "path": rest[0], "methods": rest[1]})
            case "delete":
                self.objects.pop(key, None)
            case "lose secret":
                self.secrets.discard(key)
            case "find secret":
                self.secrets.add(key)
            case "break" if found is not None:
                self.edit(key, {**found["spec"], "filter": "data.total >"})
            case "suspend" if found is not None:
                self.edit(key, {**found["spec"], "suspend": True})
            case "write status":
                await self.write_status(key)
        await self.tell(key)

    def edit(self, key: Key, spec: Object) -> None:
        number = next(self.numbers)
        new = {"creationTimestamp": f"{number:09}", "namespace": key[1], "name": key[2], "uid": f"uid-{number}"}
        before = self.objects.get(key, {"kind": key[0], "metadata": new})
        self.objects[key] = {**before, "spec": spec}

    async def tell(self, key: Key) -> None:
        for replica in self.replicas:
            await replica.observe(key, self.objects.get(key), self.secrets)

    async def write_status(self, key: Key) -> None:
        """As the replica does that holds the trigger's Lease."""
        found = self.objects.get(key)
        if found is not None:
            claims = self.replicas[0].ownership.claims_of(key)
            fields = ownership_fields(ownership_in_status(found), claims, f"{next(self.numbers):09}")
            status = {**found.get("status", {}), **fields}
            if status != found.get("status", {}):
                self.objects[key] = {**found, "status": status}
                await self.tell(key)

    def check(self) -> None:
        for request, (key, uid, path) in list(self.answered.items()):
            found = self.objects.get(key)
            if found is None or found["metadata"]["uid"] != uid or self.has_moved(key, path, request):
                del self.answered[request]
        keys = {found["metadata"]["uid"]: key for key, found in self.objects.items()}
        for request in REQUESTS:
            for replica in self.replicas:
                answer = served(replica.gateway, *request)
                owner = self.answered.get(request)
                if answer in keys:
                    assert owner is None or owner[0][1] == keys[answer][1], f"{request}: a stranger got it: {answer}"
                elif owner is not None:
                    assert answer == "503", f"{request}: its trigger exists"
        for request in REQUESTS:
            answers = {served(replica.gateway, *request) for replica in self.replicas} & keys.keys()
            assert len({keys[answer][1] for answer in answers}) < 2, f"{request}: replicas differ: {answers}"
            if answers:
                uid = answers.pop()
                self.answered[request] = keys[uid], uid, self.objects[keys[uid]]["spec"]["path"]

    def has_moved(self, key: Key, path: str, request: tuple[str, str]) -> bool:
        """Whether a valid spec that owns its claims has left the route with that path."""
        spec = parsed(self.objects[key])
        if spec is None or self.replicas[0].ownership.conflict_of(key) is not None:
            return False
        return spec.path != path or not covers(spec, key, *request)


async def run(sequence: list[tuple[Any, ...]]) -> None:
    world = World()
    for step in sequence:
        await world.do(step)
        world.check()


@settings(max_examples=60, deadline=None)
@given(steps)
@example([  # an older trigger of another namespace gets a method that it did not have
    ("edit", KEYS[0], "/pay/{id}", ["POST"]), ("edit", KEYS[2], "/pay/card", ["GET"]),
    ("edit", KEYS[0], "/pay/{id}", ["POST", "GET"]), ("edit", KEYS[1], "/pay", ["POST"]),
])  # fmt: skip
@example([  # a trigger gets a route that another one of its namespace leaves, while one elsewhere waits for longer
    ("edit", KEYS[0], "/pay/{id}", ["GET"]), ("edit", KEYS[2], "/pay/card", ["GET"]),
    ("edit", KEYS[1], "/pay/{id}", ["GET"]), ("edit", KEYS[0], "/pay", ["POST"]), ("edit", KEYS[0], "/pay", ["POST"]),
])  # fmt: skip
def test_a_route_stays_with_its_namespace_while_its_trigger_exists(sequence: list[tuple[Any, ...]]) -> None:
    asyncio.run(run(sequence))
