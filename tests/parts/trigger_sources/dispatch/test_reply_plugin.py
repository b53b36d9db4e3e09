"""A reply target that someone else wrote: a field of `reply` in manifests and definitions, and a place for replies."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from servers.scripted import Answer, Call, scripted

from trigger_sources import reply
from trigger_sources.cron import CronTrigger
from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http.gateway import Gateway
from trigger_sources.problems import problem_text
from trigger_sources.spec import SecretRef, secret_refs
from trigger_sources.stores.sqlite import Store

PLUGIN = '''
from pathlib import Path

from pydantic import Field

from trigger_sources import ReplyRefused, ReplyTarget, SecretRef


class FileReply(ReplyTarget):
    """Appends what the function returned to a file."""

    path: str = Field(min_length=1, description="The file")
    signature: SecretRef

    async def open(self, context, addresses):
        return FilePublisher(Path(self.path), await context.secret(self.signature))


class FilePublisher:
    def __init__(self, path, signature):
        self.path = path
        self.signature = signature

    async def publish(self, event, key):
        if b"refuse" in event.data:
            raise ReplyRefused("not this one")
        with self.path.open("a") as file:
            file.write(f"{event.id} {event.data.decode()} {self.signature}\\n")

    async def close(self):
        self.path.with_suffix(".closed").touch()
'''
ENTRY_POINTS = "[kubeirq.publishers]\nfile = file_reply:FileReply\n"


SECRET = {"name": "s", "key": "k"}


def packages_in(folder: Path, entry_points: str) -> Path:
    """A folder with the plugin, as pip would install it."""
    packages = folder / "packages"
    metadata = packages / "kubeirq_file_reply-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (packages / "file_reply.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: kubeirq-file-reply\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    return packages


@pytest.fixture
def plugin(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plugin, installed in this process, with further entry points where a test has some."""
    monkeypatch.syspath_prepend(packages_in(tmp_path, ENTRY_POINTS + getattr(request, "param", "")))
    forget()
    yield
    forget()
    sys.modules.pop("file_reply", None)


def forget() -> None:
    for cached in (reply.reply_kinds, reply.reply_fields, reply.target_of, reply._reply_with):
        cached.cache_clear()


def told(**fields: Any) -> str:
    with pytest.raises(ValidationError) as problem:
        CronTrigger.model_validate({"schedule": "@hourly", "function": "f", **fields})
    return problem_text(problem.value, CronTrigger)


@pytest.mark.usefixtures("plugin")
def test_its_fields_are_checked_as_those_of_the_built_in_targets() -> None:
    assert told(reply={"file": {"path": "", "signature": SECRET}}) == "spec.reply.file.path: must not be empty"
    assert told(reply={"file": {"paht": "a", "path": "a", "signature": SECRET}}) == (
        "spec.reply.file.paht: unknown field; did you mean 'path'?"
    )
    assert told(reply={"fiel": {}}).startswith("spec.reply.fiel: unknown field; did you mean 'file'?")
    assert told(reply={"file": {"path": "a", "signature": SECRET}, "function": "g"}) == (
        "spec.reply: exactly one of file, kafka, nats, function, url is needed; given: file, function"
    )


@pytest.mark.usefixtures("plugin")
def test_its_secrets_are_found() -> None:
    trigger = CronTrigger.model_validate(
        {"schedule": "@hourly", "function": "f", "reply": {"file": {"path": "a", "signature": SECRET}}}
    )
    assert list(secret_refs(trigger)) == [(("reply", "file", "signature"), SecretRef(name="s", key="k"))]
    assert trigger == CronTrigger.model_validate(trigger.model_dump(by_alias=True, exclude_unset=True))


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("plugin", ["broken = nowhere:Nothing\n"], indirect=True)
def test_a_plugin_that_cannot_be_loaded_fails_only_the_triggers_that_use_it() -> None:
    CronTrigger.model_validate({"schedule": "@hourly", "function": "f", "reply": {"kafka": {"topic": "t"}}})
    assert told(reply={"broken": {}}).startswith(
        "spec.reply: reply target 'broken': nowhere:Nothing cannot be loaded: ModuleNotFoundError"
    )


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("plugin", ["target = file_reply:FileReply\n"], indirect=True)
def test_a_name_that_reply_needs_itself_is_refused() -> None:
    assert told(reply={"target": {}}) == (
        "spec.reply: reply target 'target': the name is taken; register the class under another one"
    )


async def test_the_definitions_and_the_command_line_know_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(packages_in(tmp_path, ENTRY_POINTS))}

    async def kubeirq(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kubeirq", *arguments, env=environment, stdout=asyncio.subprocess.PIPE
        )
        written, _ = await process.communicate()
        return written.decode()

    for crd in yaml.safe_load_all(await kubeirq("crds")):
        kind = crd["spec"]["names"]["kind"]
        if kind == "Function":
            continue
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        found = schema["properties"]["reply"]
        assert list(found["properties"]) == ["file", "kafka", "nats", "function", "url"], kind
        assert found["x-kubernetes-validations"][0]["message"] == (
            "exactly one of file, kafka, nats, function, url is needed"
        )
        file = found["properties"]["file"]
        assert file["description"] == "Appends what the function returned to a file."
        assert file["required"] == ["path", "signature"]
        assert file["properties"]["path"] == {"type": "string", "minLength": 1, "description": "The file"}
    manifest = tmp_path / "t.yaml"
    manifest.write_text(
        "apiVersion: kubeirq.dev/v1\nkind: CronTrigger\nmetadata: {name: t}\n"
        "spec: {url: 'http://f', schedule: '@hourly', reply: {file: {path: 1, signature: {name: s, key: k}}}}\n"
    )
    assert "t.yaml:4: spec.reply.file.path: 1 is not a text; quote it" in await kubeirq("check", str(manifest))


@pytest.mark.usefixtures("plugin")
async def test_replies_go_to_it_and_one_that_it_refuses_is_a_dead_letter(tmp_path: Path) -> None:
    bodies = [b"first", b"refuse", b"third"]

    async def decide(call: Call) -> Answer:
        return 200, {}, bodies.pop(0)

    out = tmp_path / "out"
    trigger = CronTrigger.model_validate(
        {
            "schedule": "* * * * * *",
            "function": "f",
            "concurrency": 1,
            "reply": {"file": {"path": str(out), "signature": SECRET}},
        }
    )
    async with scripted(decide) as function, Store.open(tmp_path / "state.db") as store:
        gate = Gate("f", function.url)
        host = LocalHost(replica="r", store=store, gateway=Gateway(), secrets=lambda _, ref: ref.key, defaults={})
        flow = Flow(
            trigger, kind="CronTrigger", namespace="default", name="t", uid="u", function="f",
            gate=gate, host=host, gate_of=lambda name: gate,
        )  # fmt: skip
        running = asyncio.create_task(flow.run())
        async with asyncio.timeout(20):
            while flow.dispatcher.counters.delivered < 2:
                await asyncio.sleep(0.02)
        assert flow.dead_letters is not None
        letters = [letter async for letter in flow.dead_letters.letters()]
        await flow.stop(1)
        await running
        await gate.aclose()
    first, third = [line.split() for line in out.read_text().splitlines()[:2]]
    assert (first[1:], third[1:]) == (["first", "k"], ["third", "k"])
    assert first[0].endswith("Z/f")
    assert [(letter.reason, "not this one" in letter.message) for letter in letters] == [("ReplyRefused", True)]
    assert out.with_suffix(".closed").exists(), "the publisher is closed with its flow"
