"""Problems that keep `dev` and `serve` from starting."""

import errno
from pathlib import Path

import pytest

from kubeirq.on_machine.run import _print_problem


def test_a_full_disk_at_the_start_is_told_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert _print_problem("serve", Path("data"), OSError(errno.ENOSPC, "No space left on device")) == 1
    assert capsys.readouterr().err == "kubeirq serve: data: the disk is full; free some space\n"
