"""`kubeirq dev` reloads after changes of the files that it uses, and ignores all others."""

from pathlib import Path

import pytest

from controllers.functions.resource import FunctionSpec
from kubeirq.on_machine.desired_state import DesiredState, FunctionResource
from kubeirq.on_machine.reload import affects
from trigger_sources.source import MissingSecret

BASE = Path("/project")


def desired() -> DesiredState:
    source = {"path": "orders/place.py", "include": ["../shared"]}
    spec = FunctionSpec.model_validate({"source": source, "dependenciesPath": "requirements.txt"})

    def no_secret(namespace: str, reference: object) -> str:
        raise MissingSecret("none")

    return DesiredState([FunctionResource("default", "f", spec, BASE)], [], no_secret, lambda _: {})


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
        "/elsewhere/../secrets/db/password",
        "/elsewhere/../project/orders/place.py",
    ],
)
def test_a_file_that_the_fabric_uses_causes_a_reload(path: str) -> None:
    assert affects(Path(path), desired(), [Path("/project/manifest.txt")], Path("/secrets"))


@pytest.mark.parametrize(
    "path",
    [
        "/project/dev.log", "/project/ledger.txt", "/project/orders/other.txt", "/shared.py",
        "/project/other-state/ports.json",  # of another fabric; no folder's JSON is read as manifests
    ],
)  # fmt: skip
def test_any_other_file_causes_no_reload(path: str) -> None:
    assert not affects(Path(path), desired(), [BASE], None)
