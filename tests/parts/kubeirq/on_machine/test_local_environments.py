"""Dependencies are installed once for all functions that share them. A failure shows the installer's output."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from kubeirq.on_machine.environments import InstallFailed, fingerprint_of, interpreter_for


async def test_without_dependencies_functions_run_on_the_fabrics_python(tmp_path: Path) -> None:
    for text in ("", "\n # nothing\n"):
        found = await interpreter_for(text, label="f", show=print, cache=tmp_path)
        assert found == Path(sys.executable)


@pytest.mark.timeout(180)
async def test_two_functions_with_the_same_dependencies_build_one_environment(tmp_path: Path) -> None:
    shown: list[str] = []
    both = [interpreter_for("httptools  # parser\n", label="f", show=shown.append, cache=tmp_path) for _ in range(2)]
    one, other = await asyncio.gather(*both)
    assert one == other and len(shown) == 2
    await asyncio.to_thread(subprocess.run, [one, "-c", "import httptools, uvloop"], check=True)
    assert await interpreter_for("\nhttptools  # parser", label="f", show=shown.append, cache=tmp_path) == one
    assert len(shown) == 2


async def test_a_failed_installation_says_why_and_leaves_no_environment_that_looks_complete(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InstallFailed, match=r"^spec\.dependencies: pip cannot install them: Invalid requirement"):
            await interpreter_for("=== no requirement", label="f", show=print, cache=tmp_path)


def test_environments_with_different_requirements_have_different_fingerprints() -> None:
    assert fingerprint_of("a\n\n# x\nb") == fingerprint_of(" a\nb\n") != fingerprint_of("b\na\n")
