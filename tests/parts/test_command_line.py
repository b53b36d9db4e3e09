"""The command line as scripts use it: what it prints, and its exit codes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from kubeirq.__main__ import commands

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(commands, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize("kind", ["--http", "--cron", "--kafka", "--nats"])
def test_a_new_function_passes_the_check_and_nothing_is_overwritten(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run("new", "function", "my-greeter", kind)
    assert code == 0
    assert "try it: kubeirq dev my-greeter.yaml" in output
    assert run("check", "my-greeter.yaml") == (0, "ok: 1 function, 1 trigger\n")
    code, output = run("new", "function", "my-greeter", kind)
    assert code == 1
    assert "exists already; nothing was written" in output


def test_a_new_source_is_a_trigger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("new", "source", "moon-phases")[0] == 0
    names: dict[str, object] = {}
    text = (tmp_path / "moon-phases" / "moon_phases.py").read_text()
    exec(compile(text, "moon_phases.py", "exec"), names)
    source = names["MoonPhasesTrigger"]
    assert source.model_validate({"function": "f"}).every_seconds == 1.0  # type: ignore[attr-defined]


def test_problems_are_exit_code_1_and_usage_is_2() -> None:
    code, output = run("check", str(ROOT / "tests" / "broken_manifests"))
    assert code == 1
    assert output.splitlines()[-1].endswith(" problems in 10 files")
    assert run("check")[0] == 2
    assert run("nonsense")[0] == 2


def test_without_a_fabric_it_says_how_to_start_one(tmp_path: Path) -> None:
    for command in (("get",), ("describe", "x"), ("dead-letters", "list", "x"), ("call", "x"), ("resume", "x")):
        code, output = run(*command, "--state", str(tmp_path))
        assert code == 4
        assert "no fabric runs on" in output
        assert "kubeirq dev PATH" in output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    code, output = run("completion", shell)
    assert code == 0
    assert "_KUBEIRQ_COMPLETE" in output
