"""The fabric on one machine: reloads lose no event and leave unchanged parts alone; the admin API works."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from servers.ledger import Books, Verdict, clean, judge

from controllers.functions.resource import FunctionSpec
from kubeirq.on_machine.admin import admin_api
from kubeirq.on_machine.desired_state import DesiredState, FunctionResource
from kubeirq.on_machine.fabric import Fabric
from kubeirq.output.function_log_lines import LogLine
from kubeirq.output.trigger_lines import next_steps
from trigger_sources.dispatch.flows import TriggerResource
from trigger_sources.http.source import HTTPTrigger
from trigger_sources.source import MissingSecret

LEDGER = """
import os
def handler(event, context):
    with open(os.environ["LEDGER"], "a") as file:
        file.write(f"VERSION {event['data']['n']}\\n")
    return {"version": "VERSION"}
"""


async def test_changing_a_function_under_load_loses_no_accepted_event(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.code("1")
        await it.apply(web("accepted", answer="accepted"))
        await it.ready()
        accepted: list[int] = []
        done = asyncio.Event()

        async def keep_posting() -> None:
            async with aiohttp.ClientSession() as session:
                while not done.is_set():
                    number = len(accepted)
                    async with session.post(f"{it.fabric.http_address}/accepted", json={"n": number}) as answer:
                        assert answer.status == 202
                    accepted.append(number)
                    await asyncio.sleep(0.002)

        async with asyncio.TaskGroup() as tasks:  # a post that fails ends the test at once
            tasks.create_task(keep_posting())
            for version in ("2", "3", "4"):
                it.code(version)
                await it.apply(web("accepted", answer="accepted"))
                await until(lambda version=version: it.ledger()[-1:] and it.ledger()[-1][0] == version)
                if version == "3":
                    (tmp_path / "f.py").write_text("this is no python")
                    await it.apply(web("accepted", answer="accepted"))
                    await until(lambda: it.fabric.functions["default", "f"].state == "Failing")
            done.set()

        def verdict() -> Verdict:
            return judge(Books(dict.fromkeys(accepted), [number for _, number in it.ledger()]))

        await until(lambda: not verdict().missing)
        assert str(verdict()) == clean(len(accepted)), "no process was ended in the middle of a call"
        assert {version for version, _ in it.ledger()} == {"1", "2", "3", "4"}
        assert it.dead_letters() == 0


async def test_events_wait_for_a_first_version_that_starts(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        (tmp_path / "f.py").write_text("def handler(event, context)\n    return 1\n")
        await it.apply(web("accepted", answer="accepted"))
        assert (await it.post("/accepted", {"n": 1}))[0] == 202
        await until(lambda: it.fabric.functions["default", "f"].state == "Failing")
        printed = "".join(line.text for line in it.lines)
        assert "SyntaxError" in printed and f'File "{tmp_path}/f.py", line 1' in printed
        assert it.fabric.functions["default", "f"].last_error.endswith("SyntaxError: expected ':' (f.py:1)")
        it.code("mended")
        await it.apply(web("accepted", answer="accepted"))
        await until(lambda: it.ledger() == [("mended", 1)])


async def test_events_that_were_accepted_are_delivered_by_the_next_fabric(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.apply(web("accepted", answer="accepted"))  # there is no code yet
        for number in range(5):
            assert (await it.post("/accepted", {"n": number}))[0] == 202
    it.code("later")
    async with running(tmp_path) as it:
        await it.apply(web("accepted", answer="accepted"))
        await until(lambda: sorted(number for _, number in it.ledger()) == [0, 1, 2, 3, 4])


async def test_a_reload_changes_only_the_parts_that_changed(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.code("1")
        await it.apply(web("one"), web("two"))
        await it.ready()
        process = it.fabric.functions["default", "f"]
        flows, pid = dict(it.fabric.flows), process.pid
        await it.apply(web("one"), web("two", methods=["PUT"]), web("three"))
        await it.fabric.function_processes.prepared()
        one, two = ("default/HTTPTrigger/one", "f"), ("default/HTTPTrigger/two", "f")
        assert it.fabric.flows[one] is flows[one]
        assert it.fabric.flows[two] is not flows[two]
        assert len(it.fabric.flows) == 3 and process.pid == pid
        await it.apply(web("one"))
        assert list(it.fabric.flows) == [one]
        assert (await it.post("/one", {"n": 1}))[0] == 200


async def test_a_suspended_trigger_stays_suspended_across_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.code("1")
        await it.apply(web("one"))
        await it.admin("POST", "/v1/triggers/default/HTTPTrigger/one/suspend")
        assert (await it.status())["triggers"][0]["suspended"] is True
    async with running(tmp_path) as it:
        await it.apply(web("one"))
        found = (await it.status())["triggers"][0]
        assert (found["suspended"], found["conditions"][0]["reason"]) == (True, "Suspended")
        assert found["conditions"][0]["message"].startswith("`kubeirq suspend` suspended it; `kubeirq resume one`")
        await it.admin("POST", "/v1/triggers/default/HTTPTrigger/one/resume")
        await it.ready()
        assert (await it.post("/one", {"n": 1}))[0] == 200
        await it.apply(web("one", suspend=True))
        found = (await it.status())["triggers"][0]
        assert found["conditions"][0]["message"] == "its file sets spec.suspend to true"
        assert next_steps(found) == ["set spec.suspend to false in its file"]


async def test_the_route_of_a_trigger_that_does_not_run_is_503_and_no_other_trigger_gets_its_requests(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as it:
        it.fabric.gateway.bounds = replace(it.fabric.gateway.bounds, vacant_seconds=0.01)
        it.code("1")
        secretless = web("secret", auth={"bearer": {"tokens": [{"name": "gone", "key": "token"}]}})
        await it.apply(web("one"), web("rest", path="/{all...}"), secretless)
        await until(lambda: it.fabric.functions["default", "f"].state == "Ready")
        assert (await it.post("/other", {"n": 1}))[0] == 200
        await it.admin("POST", "/v1/triggers/default/HTTPTrigger/one/suspend")
        await until(lambda: not it.fabric.gateway._vacant)
        for path in ("/one", "/secret"):
            assert (await it.post(path, {"n": 2}))[0] == 503
        await it.admin("POST", "/v1/triggers/default/HTTPTrigger/one/resume")
        async with asyncio.timeout(20):
            while (await it.post("/one", {"n": 3}))[0] != 200:
                await asyncio.sleep(0.02)
        await it.apply(web("rest", path="/{all...}"))
        await until(lambda: not it.fabric.gateway._vacant)
        assert (await it.post("/one", {"n": 4}))[0] == 200, "the trigger is gone, and its route with it"


async def test_the_admin_api_calls_publishes_and_manages_dead_letters(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        (tmp_path / "f.py").write_text(
            "class No(Exception):\n    status = 422\ndef handler(e, c):\n    raise No('bad')\n"
        )
        await it.apply(web("accepted", answer="accepted"))
        await it.ready()
        assert (await it.admin("POST", "/v1/functions/default/f/call", b'{"n": 1}'))[0] == 200
        assert (await it.admin("POST", "/v1/functions/default/g/call", b""))[0] == 404
        base = "/v1/triggers/default/HTTPTrigger/accepted"
        assert json.loads((await it.admin("POST", base + "/publish?count=3", b'{"n": 7}'))[1])["published"] == 3
        await until(lambda: it.dead_letters() == 3)
        letters = json.loads((await it.admin("GET", base + "/dead-letters"))[1])["deadLetters"]
        assert [letter["reason"] for letter in letters] == ["PermanentAnswer"] * 3
        whole = json.loads((await it.admin("GET", f"{base}/dead-letters/show?identity={letters[0]['identity']}"))[1])
        assert whole["data"] == "eyJuIjogN30=" and whole["attempts"][0]["status"] == 422
        assert whole["attempts"][0]["error"] == "No: bad (f.py:4 in handler)"
        assert whole["message"] == "status 422: No: bad (f.py:4 in handler)"
        assert (await it.status())["triggers"][0]["lastError"] == "status 422: No: bad (f.py:4 in handler)"
        it.code("mended")
        await it.apply(web("accepted", answer="accepted"))
        await until_answers(it, "mended")
        asked = json.dumps({"identities": [letters[0]["identity"]]}).encode()
        lines = (await it.admin("POST", base + "/dead-letters/redrive", asked))[1].splitlines()
        assert json.loads(lines[-1]) == {"done": True, "delivered": 1, "failed": 0, "unreadable": []}
        assert it.ledger() == [("mended", 7)]
        assert json.loads((await it.admin("POST", base + "/dead-letters/purge", b"{}"))[1]) == {
            "purged": 2,
            "missing": [],
            "unreadable": [],
        }
        assert json.loads((await it.admin("GET", base + "/dead-letters"))[1]) == {"deadLetters": [], "unreadable": []}
        assert (tmp_path / "state" / "admin.sock").stat().st_mode & 0o777 == 0o600


async def test_the_status_is_known_while_the_fabric_drains(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.code("1")
        await it.apply(web("one"))
        await it.ready()
        address = it.fabric.http_address
        await it.fabric.stop(5)
        status = await it.status()
        assert status["addresses"]["http"] == address
        assert status["triggers"][0]["conditions"][0]["reason"] == "Stopping"


async def test_dead_letters_of_a_suspended_trigger_can_be_listed_and_are_not_redriven(tmp_path: Path) -> None:
    base = "/v1/triggers/default/HTTPTrigger/accepted"
    async with running(tmp_path) as it:
        (tmp_path / "f.py").write_text(
            "class No(Exception):\n    status = 422\ndef handler(e, c):\n    raise No('bad')\n"
        )
        await it.apply(web("accepted", answer="accepted"))
        await it.ready()
        await it.post("/accepted", {"n": 7})
        await until(lambda: it.dead_letters() == 1)
        await it.admin("POST", f"{base}/suspend")
        (letter,) = json.loads((await it.admin("GET", f"{base}/dead-letters"))[1])["deadLetters"]
        status, text = await it.admin("POST", f"{base}/dead-letters/redrive")
        assert (status, "is suspended" in text) == (409, True)
        assert (await it.admin("GET", f"{base}/dead-letters/show?identity={letter['identity']}"))[0] == 200
        it.code("mended")
        await it.apply(web("accepted", answer="accepted"))
        await it.admin("POST", f"{base}/resume")
        await until_answers(it, "mended")
        lines = (await it.admin("POST", f"{base}/dead-letters/redrive"))[1].splitlines()
        assert json.loads(lines[-1]) == {"done": True, "delivered": 1, "failed": 0, "unreadable": []}
        await it.admin("POST", f"{base}/suspend")
        assert json.loads((await it.admin("POST", f"{base}/dead-letters/purge"))[1]) == {
            "purged": 0,
            "missing": [],
            "unreadable": [],
        }


class Running:
    def __init__(self, folder: Path, fabric: Fabric, lines: list[LogLine]) -> None:
        self.folder = folder
        self.fabric = fabric
        self.lines = lines

    def code(self, version: str) -> None:
        (self.folder / "f.py").write_text(LEDGER.replace("VERSION", version))

    def ledger(self) -> list[tuple[str, int]]:
        file = self.folder / "ledger"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(version, int(number)) for version, number in (line.split() for line in lines)]

    def dead_letters(self) -> int:
        return sum(running.flow.status().dead_letters for running in self.fabric.flows.values())

    async def apply(self, *triggers: TriggerResource) -> None:
        spec = FunctionSpec.model_validate(
            {"runtime": "python3.11", "handler": "f.handler", "source": {"path": "f.py"}, "timeoutSeconds": 10}
        )
        function = FunctionResource("default", "f", spec, self.folder)
        environment = {"LEDGER": str(self.folder / "ledger")}
        await self.fabric.apply(DesiredState([function], triggers, no_secret, lambda _: environment))

    async def ready(self) -> None:
        await until(lambda: self.fabric.functions["default", "f"].state == "Ready")
        await until(lambda: all(running.flow.status().ready for running in self.fabric.flows.values()))

    async def post(self, path: str, body: Any) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session:
            async with session.post(self.fabric.http_address + path, json=body) as answer:
                return answer.status, await answer.text()

    async def status(self) -> Any:
        return json.loads((await self.admin("GET", "/v1/status"))[1])

    async def admin(self, method: str, path: str, body: bytes = b"{}") -> tuple[int, str]:
        connector = aiohttp.UnixConnector(path=str(self.folder / "state" / "admin.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            headers = {"content-type": "application/json"}
            async with session.request(method, f"http://admin{path}", data=body, headers=headers) as answer:
                return answer.status, await answer.text()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    lines: list[LogLine] = []
    async with Fabric(folder / "state", http_port=0, show_line=lines.append) as fabric:
        async with admin_api(fabric, folder / "state" / "admin.sock"):
            yield Running(folder, fabric, lines)
            await fabric.stop(5)


def web(name: str, **spec: Any) -> TriggerResource:
    source = HTTPTrigger.model_validate({"function": "f", "path": f"/{name}", **spec})
    return TriggerResource("HTTPTrigger", "default", name, source, f"default/HTTPTrigger/{name}")


def no_secret(namespace: str, reference: Any) -> str:
    raise MissingSecret(f"secret {reference.name!r}: there is none")


async def until_answers(it: Running, version: str) -> None:
    async with asyncio.timeout(20):
        while version not in (await it.admin("POST", "/v1/functions/default/f/call", b'{"n": 7}'))[1]:
            await asyncio.sleep(0.02)
    (it.folder / "ledger").unlink()


async def until(holds: Callable[[], Any], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)
