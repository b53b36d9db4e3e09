"""The command line as scripts use it: its output and its exit codes."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from servers.fabric import fabric, manifest

from kubeirq.__main__ import commands
from kubeirq.commands.group import command_first

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(commands, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize("kind", ["--http", "--cron", "--kafka", "--nats"])
def test_new_function_writes_valid_files_and_overwrites_none(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run("new", "function", "my-greeter", kind)
    assert code == 0
    assert "try it: kubeirq dev my-greeter.yaml" in output
    assert run("check", "my-greeter.yaml") == (0, "ok: 1 function, 1 trigger\n")
    code, output = run("new", "function", "my-greeter", kind)
    assert code == 1
    assert "already exists; nothing was written" in output


def test_new_source_writes_a_trigger_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("new", "source", "moon-phases")[0] == 0
    names: dict[str, object] = {}
    text = (tmp_path / "moon-phases" / "moon_phases.py").read_text()
    exec(compile(text, "moon_phases.py", "exec"), names)
    source = names["MoonPhasesTrigger"]
    assert source.model_validate({"function": "f"}).every_seconds == 1.0  # type: ignore[attr-defined]


def test_problems_give_exit_code_1_and_usage_errors_2() -> None:
    code, output = run("check", str(ROOT / "tests" / "broken_manifests"))
    assert code == 1
    assert output.splitlines()[-1].endswith(" problems in 10 files")
    assert run("check")[0] == 2
    assert run("nonsense")[0] == 2


def test_check_finds_what_would_not_start_and_says_so_as_json(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def handler(event, context)\n    return 1\n")
    (tmp_path / "f.yaml").write_text(
        "apiVersion: kubeirq.dev/v1\nkind: Function\nmetadata: {name: f}\nspec: {source: {path: f.py}}\n"
    )
    code, output = run("check", str(tmp_path))
    assert (code, output.splitlines()[0]) == (1, f"{tmp_path}/f.py:1: SyntaxError: expected ':'")
    code, output = run("check", str(tmp_path), "-o", "json")
    assert code == 1
    assert json.loads(output)["problems"] == [
        {"file": f"{tmp_path}/f.py", "line": 1, "field": "", "message": "SyntaxError: expected ':'"}
    ]


def test_a_folder_without_resources_is_not_ok(tmp_path: Path) -> None:
    code, output = run("check", str(tmp_path))
    assert code == 1
    assert "no resources found; `kubeirq new function NAME` writes a first one" in output


def test_options_of_a_fabric_may_come_before_the_command(tmp_path: Path) -> None:
    for arguments in (("--state", str(tmp_path), "get"), (f"--state={tmp_path}", "dead-letters", "list", "x")):
        code, output = run(*arguments)
        assert (code, f"no fabric runs on {tmp_path}" in output) == (4, True)
    assert command_first(["-n", "team", "call", "f", "--", "-d"]) == ["call", "f", "-n", "team", "--", "-d"]
    assert command_first(["get", "-n", "team"]) == ["get", "-n", "team"]
    assert run("-n", "team")[0] == 2


def test_the_version_is_an_option_too() -> None:
    assert run("--version") == run("version")


def test_every_help_ends_with_an_example() -> None:
    def commands_below(command: click.Command, *words: str) -> Iterator[tuple[str, ...]]:
        if not isinstance(command, click.Group):
            yield words
            return
        for name, found in command.commands.items():
            yield from commands_below(found, *words, name)

    for words in commands_below(commands):
        code, output = run(*words, "--help")
        assert code == 0
        assert "kubeirq " + " ".join(words) in output.partition("Examples:\n")[2], words


def test_without_a_fabric_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    for command in (("get",), ("describe", "x"), ("dead-letters", "list", "x"), ("call", "x"), ("resume", "x")):
        code, output = run(*command, "--state", str(tmp_path))
        assert code == 4
        assert "no fabric runs on" in output
        assert "kubeirq dev PATH" in output


async def test_a_fabric_on_this_machine_comes_before_a_cluster_and_its_logs_outlive_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kubeconfig").write_text("{kind: Config}")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    code = "def handler(event, context):\n    print('called with', event['data'])\n    raise ValueError('no')\n"
    manifests = [
        manifest("Function", "greet", source={"inline": code}),
        manifest("HTTPTrigger", "web", function="greet", path="/web"),
    ]
    async with fabric(tmp_path / "app", tmp_path / ".kubeirq", manifests=manifests) as it:
        async with asyncio.timeout(20):
            while (await ran("get"))[0] == 3:
                await asyncio.sleep(0.1)
        code_, output = await ran("get", "web")
        assert (code_, "HTTPTrigger/web" in output, "\ngreet" in output) == (0, True, False)
        assert (await ran("get", "functions"))[1].splitlines()[1].split()[:2] == ["greet", "Ready"]
        assert await ran("get", "gret") == (1, "Error: no function or trigger 'gret'; did you mean 'greet'?\n")
        assert (await ran("call", "greet", "-d", '"x"'))[0] == 1
        assert (await ran("get", "--context", "nowhere"))[0] == 4, "the cluster was asked for"
        assert await completed("describe", "") == ["greet", "web"]
        assert await completed("suspend", "") == ["web"]
        assert await completed("call", "x") == []
        assert await completed("get", "--kubeconfig", "none", "--context", "") == []
        (tmp_path / "kubeconfig").write_text("{contexts: [{name: far}, {name: near}]}")
        assert await completed("get", "--context", "n") == ["near"]
        assert (
            (await ran("logs", "web"))[1]
            .splitlines()[-1][20:]
            .startswith("info    source connected  trigger=default/web")
        )
        await it.stop()
    _, output = await ran("logs", "greet", "--state", ".kubeirq")
    lines = output.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d called with x", lines[0])
    first = json.loads((await ran("logs", "greet", "--state", ".kubeirq", "-o", "json"))[1].splitlines()[0])
    assert first["line"] == "called with x"
    assert lines[-1].endswith("ValueError: no")
    assert await ran("logs", "greet", "--state", ".kubeirq", "--tail", "1") == (0, lines[-1] + "\n")
    for name in ("web", "HTTPTrigger/web", "default/web"):
        assert "source connected  trigger=default/web" in (await ran("logs", name, "--state", ".kubeirq"))[1]
    for name in ("Function/greet", "default/greet"):
        assert (await ran("logs", name, "--state", ".kubeirq"))[1].splitlines()[0] == lines[0]
    assert (await ran("logs", "other", "--state", ".kubeirq"))[0] == 4


async def test_a_lane_or_dead_letter_is_named_as_it_is_listed_and_an_unknown_name_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "def handler(event, context):\n    raise ValueError('no')\n"
    delivery = {"attempts": 1, "onFailure": "park"}
    manifests = [
        manifest("Function", "f", source={"inline": code}),
        manifest("NATSTrigger", "parked", function="f", subject="parked", createStream=True, delivery=delivery),
        manifest("NATSTrigger", "dead", function="f", subject="dead", createStream=True, delivery={"attempts": 1}),
    ]
    async with fabric(tmp_path / "app", tmp_path / ".kubeirq", manifests=manifests):
        for name in ("parked", "parked", "dead"):
            assert (await ran("publish", name, "-d", "1"))[0] == 0
        first, second = await rows("lanes", "list", "parked", number=2)
        assert (await ran("lanes", "skip", "parked"))[0] == 2
        assert (await ran("lanes", "skip", "parked", first, "--all"))[0] == 2
        code_, output = await ran("lanes", "skip", "parked", "event:nowhere")
        assert (code_, "no lane 'event:nowhere' of parked waits" in output) == (1, True)
        assert await ran("lanes", "skip", "parked", first) == (0, "skipped 1\n")
        assert await rows("lanes", "list", "parked", number=1) == [second]
        assert await ran("lanes", "skip", "parked", "--all") == (0, "skipped 1\n")
        (letter,) = await rows("dead-letters", "list", "dead", number=1)
        for command in ("redrive", "purge", "show"):
            code_, output = await ran("dead-letters", command, "dead", "nowhere")
            assert (code_, "no dead letter 'nowhere'" in output) == (1, True), command
        assert (await ran("dead-letters", "redrive", "dead", "nowhere", "--dry-run"))[0] == 1
        code_, output = await ran("dead-letters", "purge", "dead", letter, "nowhere")
        assert (code_, output.splitlines()[0]) == (1, "purged 1")
        for words in (("lanes", "list", "x"), ("lanes", "release", "x", "--all"), ("resume", "x"), ("suspend", "x")):
            assert (await ran(*words))[0] == 1
        for command in ("list", "show", "redrive", "purge"):
            assert (await ran("dead-letters", command, "x", *([] if command == "list" else ["y"])))[0] == 1


async def test_a_worker_that_crashes_is_told_in_the_attempt_and_in_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = """
import ctypes, os, signal
def handler(event, context):
    if event["data"] == "exit":
        os._exit(7)
    if event["data"] == "segv":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    manifests = [
        manifest("Function", "f", source={"inline": code}),
        manifest("NATSTrigger", "n", function="f", subject="n", createStream=True, delivery={"attempts": 1}),
    ]
    async with fabric(tmp_path / "app", tmp_path / ".kubeirq", manifests=manifests) as it:
        async with asyncio.timeout(20):
            while (await ran("get"))[0] == 3:
                await asyncio.sleep(0.1)
        for data, end in (
            ("exit", "exit code 7"),
            ("segv", "signal SIGSEGV (f.py:7 in handler) while"),
            ("kill", "signal SIGKILL (out of mem"),
        ):
            code_, output = await ran("call", "f", "-d", f'"{data}"')
            assert code_ == 1
            assert f"Error: function 'f': no answer: the worker process ended with {end}" in output
        assert (await ran("publish", "n", "-d", '"exit"'))[0] == 0
        await rows("dead-letters", "list", "n", number=1)
        text = "the worker process ended with exit code 7"
        path = "/v1/triggers/default/NATSTrigger/n/dead-letters"
        assert (await it.ask_json("GET", path))["deadLetters"][0]["message"] == f"{text} while it ran this event"
        described = (await ran("describe", "n"))[1]
        assert re.search(r"deadLettered 1, .*, counted for \d+ [a-z0-9 ]+\n", described), described
        assert re.search(
            rf"last error at [0-9:]{{8}}, \d+ [a-z0-9 ]+ ago: {text} while it ran this event", described
        ), described
        assert re.search(rf"last error at [0-9:]{{8}}, \d+ [a-z0-9 ]+ ago\n    {text}", (await ran("describe", "f"))[1])
        status = (await it.status())["functions"][0]
        assert (status["state"], status["lastError"]) == ("Ready", text)
        assert status["restarts"] == 4


async def rows(*words: str, number: int) -> list[str]:
    """The first column of the table, once it has that number of rows."""
    async with asyncio.timeout(90):  # each look is a process of its own
        while len(found := [line.split()[0] for line in (await ran(*words))[1].splitlines()[1:]]) != number:
            await asyncio.sleep(0.1)
    return found


def test_options_for_a_cluster_and_for_this_machine_exclude_each_other() -> None:
    code, output = run("get", "--state", "here", "--context", "there")
    assert (code, "use only one" in output) == (2, True)


async def completed(*words: str) -> list[str]:
    """The completions that bash gets for the last word."""
    environment = {"COMP_WORDS": " ".join(("kubeirq", *words)), "COMP_CWORD": str(len(words))}
    result = await asyncio.to_thread(
        CliRunner().invoke, commands, prog_name="kubeirq", env={**environment, "_KUBEIRQ_COMPLETE": "bash_complete"}
    )
    return [line.partition(",")[2] for line in result.output.split()]


async def ran(*arguments: str) -> tuple[int, str]:
    return await asyncio.to_thread(run, *arguments)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    code, output = run("completion", shell)
    assert code == 0
    assert "_KUBEIRQ_COMPLETE" in output


async def test_a_cron_trigger_is_fired_by_hand_with_its_payload_and_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = """
def handler(event, context):
    attributes = event["cloudevent"]["attributes"]
    if event["data"] == "fail":
        raise KeyError("kind")
    return {"got": event["data"], "manual": attributes["manual"], "time": attributes["scheduledtime"]}
"""
    sink = f"def handler(event, context):\n    open({str(tmp_path / 'got')!r}, 'a').write(event['data']['got'])\n"
    yearly = {"schedule": "0 0 1 1 *", "function": "f", "reply": {"function": "sink"}}
    manifests = [
        manifest("Function", "f", source={"inline": code}),
        manifest("Function", "sink", source={"inline": sink}),
        manifest("CronTrigger", "report", payload="fine", **yearly),
        manifest("CronTrigger", "broken", payload="fail", delivery={"attempts": 1}, **yearly),
        manifest("HTTPTrigger", "web", function="f"),
    ]
    async with fabric(tmp_path / "app", tmp_path / ".kubeirq", manifests=manifests) as it:
        async with asyncio.timeout(60):
            while (await ran("get"))[0] == 3:
                await asyncio.sleep(0.1)
        assert await ran("fire", "report") == (0, "f: delivered\n")
        assert (tmp_path / "got").read_text() == "fine"
        assert (await it.trigger("report"))["counters"]["delivered"] == 1
        failure = "f: failed: AttemptsExhausted: status 500: KeyError: 'kind' (f.py:5 in handler)\n"
        assert await ran("fire", "broken") == (1, failure)
        assert (await it.trigger("broken"))["deadLetters"] == 0, "the person has the failure"
        code_, output = await ran("publish", "report")
        assert (code_, "`kubeirq fire report` runs it now" in output) == (1, True), output
        code_, output = await ran("fire", "web")
        assert (code_, "its events come from outside; publish one there" in output) == (1, True), output

        assert (await ran("suspend", "report"))[0] == 0
        described = (await ran("describe", "report"))[1]
        assert "`kubeirq suspend` suspended it; `kubeirq resume report` continues it" in described
        assert "next: kubeirq resume report" in described
        code_, output = await ran("fire", "report")
        assert (code_, "report is suspended: nothing is delivered; resume it first" in output) == (1, True), output
        assert (await ran("resume", "report"))[0] == 0
        assert (await ran("fire", "report"))[0] == 0
