"""The exit code of `kubeirq fire` tells a run that goes on from one that failed."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from kubeirq.commands.invoke import fire


class Fabric:
    def __init__(self, outcomes: Sequence[str | None]) -> None:
        self.outcomes = outcomes

    async def trigger(self, name: str) -> Mapping[str, Any]:
        return {"name": name}

    async def fire(self, trigger: Any) -> Sequence[Mapping[str, Any]]:
        rest = {"reason": "", "message": "", "status": None}
        return [{"function": f"f{number}", "outcome": found, **rest} for number, found in enumerate(self.outcomes)]


@pytest.mark.parametrize(
    ("outcomes", "code", "shown", "failures"),
    [
        (["delivered"], 0, "f0: delivered\n", ""),
        (["filtered"], 0, "f0: filtered\n", ""),
        ([None], 5, "f0: it has not ended yet; `kubeirq describe nightly` says more\n", ""),
        (["dropped", "delivered"], 1, "f1: delivered\n", "f0: failed\n"),
        ([None, "dropped"], 1, "f0: it has not ended yet; `kubeirq describe nightly` says more\n", "f1: failed\n"),
    ],
)
async def test_a_run_that_goes_on_has_an_exit_code_of_its_own(
    outcomes: Sequence[str | None], code: int, shown: str, failures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fire.callback is not None
    assert await inspect.unwrap(fire.callback)(Fabric(outcomes), "nightly") == code
    assert capsys.readouterr() == (shown, failures)
