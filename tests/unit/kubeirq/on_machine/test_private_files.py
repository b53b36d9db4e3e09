"""The files of a state folder are their owner's only; the files of others beside them stay as they are."""

import os
from pathlib import Path

from kubeirq.on_machine.private_files import make_private, outer_umask, private_files
from kubeirq.on_machine.state_lock import locked


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_folder_of_an_earlier_version_becomes_private(tmp_path: Path) -> None:
    state = tmp_path / ".kubeirq"
    (state / "functions" / "default" / "f").mkdir(parents=True, mode=0o755)
    for name in ("kubeirq.sqlite", "kubeirq.sqlite-wal", "kubeirq.sqlite-shm", "functions/default/f/f.py"):
        (state / name).touch(0o644)
    (state / "functions" / "run.sh").touch(0o755)
    (tmp_path / "elsewhere").touch(0o644)
    (state / "functions" / "link").symlink_to(tmp_path / "elsewhere")
    with locked(state):
        found = {path: mode(path) for path in (state, *state.rglob("*")) if not path.is_symlink()}
    assert {str(path) for path, bits in found.items() if bits & 0o077} == set()
    assert mode(state / "functions" / "run.sh") == 0o700
    assert mode(tmp_path / "elsewhere") == 0o644, "a link is not followed"


def test_the_files_of_others_in_the_folder_stay_as_they_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "site").mkdir(mode=0o755)
    (tmp_path / "kubeirq.sqlite").touch(0o644)
    make_private(tmp_path)
    assert (mode(tmp_path), mode(tmp_path / "site"), mode(tmp_path / "kubeirq.sqlite")) == (0o755, 0o755, 0o600)


def test_new_files_are_private_and_the_umask_is_as_before_afterwards(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with private_files():
            (tmp_path / "new").touch()
            assert outer_umask() == 0o022
        assert outer_umask() == -1
        (tmp_path / "after").touch()
    finally:
        os.umask(before)
    assert (mode(tmp_path / "new"), mode(tmp_path / "after")) == (0o600, 0o644)
