"""Each reason of a condition that a person can meet has a step in `kubeirq describe`, or needs none."""

import re
from pathlib import Path

import pytest

from kubeirq.output import function_steps, trigger_lines

ROOT = Path(__file__).resolve().parents[4]
REASON = "[A-Z][a-z]+(?:[A-Z][A-Za-z]+)*"
# In code: SourceError("X", Condition("Connected", "False", "X", Problem("X", report(False, "X", reason="X"
IN_CODE = re.compile(
    rf'''(?:SourceError\(\s*|Problem\(\s*|reason=|report\((?:True|False),\s*|"(?:True|False|Unknown)",\s*)"({REASON})"'''
)
GOOD = frozenset(
    {"Accepted", "Connected", "Exposed", "Flowing", "Ready", "Serving", "Delivering", "True", "False", "Unknown"}
)
OF_FUNCTIONS = ("controllers/functions", "controllers/cluster")
WITH_STEP_OF_THEIR_OWN = frozenset({"FunctionDown"})


def reasons_in(*places: str) -> set[str]:
    files = [
        file for place in places for file in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))
    ]
    return {reason for file in files for reason in IN_CODE.findall(file.read_text())} - GOOD


def reasons_in_docs() -> set[str]:
    """The first cells of the rows below `| reason ...` in the pages about sources and delivery."""
    found: set[str] = set()
    for page in ("kafka", "nats", "delivery"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        for table in re.findall(
            r"^\| (?:reason or symptom|reason of `\w+`).*\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE
        ):
            cells = (row.split("|")[1] for row in table.splitlines())
            found |= {reason for cell in cells if " is " not in cell for reason in re.findall(rf"`({REASON})`", cell)}
    return found - GOOD


@pytest.mark.parametrize("reason", sorted(reasons_in("trigger_sources", "controllers/triggers") | reasons_in_docs()))
def test_a_reason_of_a_trigger_has_a_step(reason: str) -> None:
    known = {*trigger_lines._NEXT_OF_REASON, *trigger_lines._WITHOUT_A_STEP, *WITH_STEP_OF_THEIR_OWN}
    assert reason in known


@pytest.mark.parametrize("reason", sorted(reasons_in(*OF_FUNCTIONS)))
def test_a_reason_of_a_function_has_a_step(reason: str) -> None:
    assert reason in {*function_steps._NEXT_OF_REASON, *function_steps._WITHOUT_A_STEP}


def test_a_function_shows_the_step_of_its_reason_and_its_logs_where_nothing_else_helps() -> None:
    def steps(reason: str, *, ready: bool = False, has_events: bool = False) -> list[str]:
        view = {"name": "pay", "ready": ready, "conditions": [{"reason": reason}]}
        return list(function_steps.function_steps(view, has_events))

    assert steps("Unschedulable")[0].endswith("kubectl describe pods --selector kubeirq.dev/function=pay")
    assert steps("Brand-new") == ["kubeirq logs Function/pay"]
    assert steps("Ready", ready=True) == []
    assert steps("Ready", ready=True, has_events=True) == ["kubeirq logs Function/pay"]
    assert steps("CrashLoopBackOff", has_events=True) == ["kubeirq logs Function/pay"]


@pytest.mark.parametrize(
    ("reason", "message", "step"),
    [
        ("PodsRefused", 'pods "a": exceeded quota: q, requested: pods=1, used: pods=2', "raise the quota"),
        ("PodsRefused", 'pods "a": exceeded quota: q, requested: limits.cpu=1', "change spec.resources"),
        ("ImagePullBackOff", "the image a/b cannot be pulled: dial tcp: lookup a: i/o timeout", "look at the DNS"),
        ("RolloutStuck", "the image a/b cannot be pulled: dial tcp: lookup a: i/o timeout", "look at the DNS"),
        ("ImagePullBackOff", "the image a/b cannot be pulled: not found", "correct spec.image"),
    ],
)
def test_the_step_fits_the_cause_that_the_message_names(reason: str, message: str, step: str) -> None:
    view = {"name": "pay", "ready": False, "conditions": [{"reason": reason, "message": message}]}
    assert function_steps.function_steps(view, has_events=False)[0].startswith(step)
