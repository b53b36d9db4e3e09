"""The fabric's own log: a full disk is said once, and the terminal shows the error behind a warning."""

import logging
from pathlib import Path

import pytest

from kubeirq.on_machine.fabric_logging import logging_to
from kubeirq.on_machine.log_files import fabric_log
from kubeirq.output.terminal_warnings import TerminalWarnings


def test_a_full_disk_is_said_once_and_raises_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    fabric_log(tmp_path).parent.mkdir()
    fabric_log(tmp_path).symlink_to("/dev/full")
    with logging_to(tmp_path, logging.NullHandler()):
        for _ in range(3):
            logging.getLogger("kubeirq.test").warning("no room")
    errors = capsys.readouterr().err
    assert errors.count("cannot be written: No space left on device") == 1
    assert "Logging error" not in errors


def test_the_terminal_shows_the_error_behind_a_warning() -> None:
    shown: list[str] = []
    logger = logging.getLogger("kubeirq.test")
    handler = TerminalWarnings(shown.append)
    logger.addHandler(handler)
    try:
        try:
            raise TypeError("data is a dict")
        except TypeError:
            logger.exception("dispatch failed", extra={"trigger": "default/t"})
    finally:
        logger.removeHandler(handler)
    assert shown == ["dispatch failed  trigger=default/t  error=TypeError: data is a dict"]
