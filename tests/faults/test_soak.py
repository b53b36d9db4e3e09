"""Two minutes of the soak. `make soak` runs it for half an hour."""

import os
import random
from pathlib import Path

import pytest
from soak.script import soak

SECONDS = 120


@pytest.mark.timeout(480)
async def test_the_ledger_holds_after_every_action_of_an_operator(tmp_path: Path) -> None:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1_000_000))
    breaches = await soak(SECONDS, seed, tmp_path)
    assert not breaches, f"seed {seed}: {breaches}"
