"""The supervisor stays small."""

import subprocess
import sys
from pathlib import Path

RUNTIME = Path(__file__).resolve().parents[3] / "runtimes" / "python"


def test_the_supervisor_imports_nothing_that_only_a_worker_needs() -> None:
    code = "import sys, kubeirq_runtime.supervisor; print(*sys.modules)"
    # -S: without the site packages, whose .pth files import more
    ran = subprocess.run([sys.executable, "-S", "-c", code], cwd=RUNTIME, check=True, stdout=subprocess.PIPE, text=True)

    assert {"asyncio", "httptools", "json", "traceback"}.isdisjoint(ran.stdout.split())
