"""Which changes of files make `kubeirq dev` look again, and which are none of its business."""

from pathlib import Path

import pytest

from controllers.functions.resource import FunctionSpec
from kubeirq.on_machine.fabric import FunctionResource, Wanted
from kubeirq.on_machine.run import concerns
from trigger_sources.source import MissingSecret

BASE = Path("/project")


def wanted() -> Wanted:
    source = {"path": "orders/place.py", "include": ["../shared"]}
    spec = FunctionSpec.model_validate({"source": source, "dependenciesPath": "requirements.txt"})

    def no_secret(namespace: str, reference: object) -> str:
        raise MissingSecret("none")

    return Wanted([FunctionResource("default", "f", spec, BASE)], [], no_secret, lambda _: {})


@pytest.mark.parametrize(
    "path",
    [
        "/project/a.yaml",
        "/project/new/b.yml",
        "/project/manifest.txt",
        "/project/orders/place.py",
        "/shared/deep/lib.py",
        "/project/requirements.txt",
        "/secrets/db/password",
    ],
)
def test_it_may_change_what_runs(path: str) -> None:
    assert concerns(Path(path), wanted(), [Path("/project/manifest.txt")], Path("/secrets"))


@pytest.mark.parametrize("path", ["/project/dev.log", "/project/ledger.txt", "/project/orders/other.txt", "/shared.py"])
def test_it_is_none_of_its_business(path: str) -> None:
    assert not concerns(Path(path), wanted(), [BASE], None)
