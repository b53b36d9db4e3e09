"""`call` and `publish` send headers, attributes, subjects, paths and sample events."""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from servers.fabric import fabric, manifest
from servers.nats import nats_server

from kubeirq.__main__ import commands
from kubeirq.on_machine.child_processes import free_port
from kubeirq.sample_events import SAMPLES

CODE = """
import json, os
def handler(event, context):
    request = event["extensions"]["request"]
    seen = {"data": event["data"], "type": event["event-type"], "path": request.path,
            "headers": {name: request.headers[name] for name in request.headers},
            "attributes": event["cloudevent"]["attributes"]}
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps(seen, default=str) + "\\n")
    if "fail" in request.headers:
        raise ValueError("as asked")
    return seen
"""


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(commands, list(arguments))
    return result.exit_code, result.output


async def test_calls_and_events_carry_what_the_options_say(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    manifests = [
        manifest("Function", "f", source={"inline": CODE}, env=[{"name": "LEDGER", "value": str(ledger)}]),
        manifest("HTTPTrigger", "web", function="f", path="/orders/{id}"),
        manifest("NATSTrigger", "jobs", function="f", subject="jobs.>"),
    ]
    async with fabric(tmp_path / "app", tmp_path / "state", manifests=manifests) as it:

        async def ran(*arguments: str) -> tuple[int, str]:
            return await asyncio.to_thread(run, *arguments, "--state", str(it.state))

        async def seen(count: int) -> Any:
            async with asyncio.timeout(30):
                while not ledger.exists() or len(ledger.read_text().splitlines()) < count:
                    await asyncio.sleep(0.05)
            return json.loads(ledger.read_text().splitlines()[count - 1])

        async with asyncio.timeout(40):
            while (await ran("get"))[0] == 3:
                await asyncio.sleep(0.1)
        code, output = await ran("call", "f", "-d", '{"a": 1}', "-H", "X-Tenant: t", "--attribute", "type=my.type")
        found = json.loads(output)
        assert (code, found["type"], found["headers"]["x-tenant"], found["data"]) == (0, "my.type", "t", {"a": 1})
        code, output = await ran("call", "f", "-H", "fail: yes")
        assert (code, output.splitlines()[-1][:38]) == (1, "status 500: ValueError: as asked (f.py")
        code, output = await ran("call", "f", "--sample", "github-push")
        assert json.loads(output)["headers"]["x-github-event"] == "push"

        assert "web: its path '/orders/{id}' has parameters; name one with" in (await ran("publish", "web"))[1]
        result = await ran("publish", "web", "--path", "/orders/7", "-d", "{}", "--attribute", "type=größe 1")
        assert result == (0, "published 1\n")
        found = await seen(4)
        assert (found["path"], found["attributes"]["type"]) == ("/orders/7", "größe 1")

        code, output = await ran("publish", "web", "--path", "/orders/8", "-d", "{}", "-H", "fail: yes")
        assert (code, "web: answer 500: status 500: ValueError: as asked (f.py" in output) == (1, True), output

        assert "is a pattern; name one that matches with --subject" in (await ran("publish", "jobs", "-d", "{}"))[1]
        for subject in ("other.a", "jobs", "jobs.*"):
            assert (await ran("publish", "jobs", "--subject", subject))[0] == 1
        assert (await ran("publish", "jobs", "--subject", "jobs.a", "--sample", "cloudevents"))[0] == 0
        found = await seen(6)
        assert (found["type"], found["data"]["item"]) == ("com.example.order.created", "tea")
        assert "nats://127.0.0.1:" in next(
            line for line in it.log.read_text().splitlines() if "fabric is running" in line
        )


async def test_a_broker_that_cannot_be_reached_is_named_with_the_cause(tmp_path: Path) -> None:
    port = free_port()
    manifests = [
        manifest("Function", "f", source={"inline": CODE}),
        manifest("NATSTrigger", "jobs", function="f", subject="jobs", servers=[f"nats://127.0.0.1:{port}"]),
        manifest("KafkaTrigger", "orders", function="f", topics=["o"], brokers=[f"127.0.0.1:{port}"]),
    ]
    async with fabric(tmp_path / "app", tmp_path / "state", manifests=manifests) as it:
        for trigger in ("jobs", "orders"):
            words = ("publish", trigger, "-d", "1", "--state", str(it.state))
            code, output = await asyncio.to_thread(run, *words)
            assert (code, output) == (
                1, f"Error: {trigger}: 127.0.0.1:{port}: connection refused (nothing listens on this port)\n",
            )  # fmt: skip


@pytest.mark.parametrize("option", ["--http-port", "--metrics-port"])
def test_a_port_that_is_taken_is_told_before_anything_starts(option: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(json.dumps(manifest("Function", "f", source={"inline": CODE})))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = {"--http-port": "--metrics-port", "--metrics-port": "--http-port"}[option]
        words = ["serve", str(tmp_path), "--state", str(tmp_path / "state"), option, str(port), other, "0"]
        result = subprocess.run([sys.executable, "-m", "kubeirq", *words], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"{option}: another process listens on 127.0.0.1:{port}; end it, or set {option}" in result.stderr
    assert not (tmp_path / "state" / "kubeirq.sqlite").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("-H", "no colon"), "NAME:VALUE"),
        (("-H", "a b: c"), "a header is a name"),
        (("-H", "a: b\r\nc: d"), "a header is a name"),
        (("--attribute", "nothing"), "NAME=VALUE"),
        (("--attribute", "Not-a-name=1"), "is not a name"),
        (("--sample", "nothing"), "is not one of"),
    ],
)
def test_options_that_make_no_message_are_refused(arguments: tuple[str, ...], problem: str) -> None:
    code, output = run("call", "f", *arguments)
    assert (code, problem in output) == (2, True)


def test_samples_are_json_objects() -> None:
    assert all(json.loads(sample.body) for sample in SAMPLES.values())


async def test_a_message_that_no_stream_takes_is_not_published(tmp_path: Path) -> None:
    """Without a stream the server takes it and gives it to nobody."""
    async with nats_server() as server:
        spec = {"function": "f", "subject": "jobs", "servers": [server.url]}
        manifests = [
            manifest("Function", "f", source={"inline": CODE}),
            manifest("NATSTrigger", "jobs", **spec),
            manifest("NATSTrigger", "core", **{**spec, "subject": "other"}, mode="core"),
        ]
        async with fabric(tmp_path / "app", tmp_path / "state", manifests=manifests) as it:
            code, output = await asyncio.to_thread(run, "publish", "jobs", "-d", "1", "--state", str(it.state))
            assert (code, "no stream has the subject 'jobs'" in output) == (1, True), output
            code, output = await asyncio.to_thread(run, "publish", "core", "-d", "1", "--state", str(it.state))
            assert code == 0, output
