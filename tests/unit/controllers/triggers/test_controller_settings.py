"""The environment of a controller: a bad value is refused with its variable's name."""

import gc
import logging

import pytest

from controllers import __main__ as controller_process
from controllers.__main__ import log_level_from, settings_from
from controllers.triggers.process import settings_from as trigger_settings_from

IMAGE = {"KUBEIRQ_RUNTIME_IMAGE": "runtimes"}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{", "KUBEIRQ_IMAGES: not valid JSON: "),
        ("[]", "KUBEIRQ_IMAGES: must map runtimes to images"),
        ('{"python3.11": 1}', "KUBEIRQ_IMAGES: must map runtimes to images"),
    ],
)
def test_images_that_are_none_are_named(value: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        settings_from({**IMAGE, "KUBEIRQ_IMAGES": value})


def test_images_are_by_runtime_and_may_be_left_out() -> None:
    assert settings_from({**IMAGE, "KUBEIRQ_IMAGES": '{"python3.11": "p"}'}).images == {"python3.11": "p"}
    assert settings_from({**IMAGE, "KUBEIRQ_IMAGES": ""}).images == {}


@pytest.mark.parametrize("value", ["[", "{}", '["a"]'])
def test_callers_that_are_no_peers_are_named(value: str) -> None:
    with pytest.raises(ValueError, match=r"^KUBEIRQ_CALLERS: "):
        settings_from({**IMAGE, "KUBEIRQ_CALLERS": value})
    with pytest.raises(ValueError, match=r"^KUBEIRQ_EXPOSED_CALLERS: "):
        trigger_settings_from({"KUBEIRQ_EXPOSED_CALLERS": value})


def test_without_callers_everyone_reaches_functions() -> None:
    assert settings_from(IMAGE).callers is None
    assert trigger_settings_from({}).exposed_callers is None
    assert trigger_settings_from({"KUBEIRQ_EXPOSED_CALLERS": "[]"}).exposed_callers == ()


def test_the_level_of_logs_is_named_and_is_info_by_default() -> None:
    assert [log_level_from({"KUBEIRQ_LOG_LEVEL": name}) for name in ("", "debug", "error")] == [
        logging.INFO, logging.DEBUG, logging.ERROR,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="KUBEIRQ_LOG_LEVEL: 'loud' is not one of debug, info, warning, error"):
        log_level_from({"KUBEIRQ_LOG_LEVEL": "loud"})


def test_the_resources_of_init_containers_are_an_object() -> None:
    resources = '{"limits": {"memory": "1Gi"}}'
    assert settings_from({**IMAGE, "KUBEIRQ_INIT_RESOURCES": resources}).init_resources == {"limits": {"memory": "1Gi"}}
    assert settings_from(IMAGE).init_resources == {}
    for value in ("{", "[]"):
        with pytest.raises(ValueError, match="KUBEIRQ_INIT_RESOURCES: "):
            settings_from({**IMAGE, "KUBEIRQ_INIT_RESOURCES": value})


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "70000", "٣"])
def test_a_number_that_is_none_is_named(value: str) -> None:
    with pytest.raises(ValueError, match=f"KUBEIRQ_PORT: {value!r} is not a whole number from 1 to 65535"):
        trigger_settings_from({"KUBEIRQ_PORT": value})


def test_a_grace_of_none_is_one() -> None:
    assert trigger_settings_from({"KUBEIRQ_GRACE_SECONDS": "0"}).grace_seconds == 0


def test_a_controller_rarely_searches_all_objects_for_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of triggers, each search of all objects stops its loop for half a second."""
    before = gc.get_threshold()
    monkeypatch.setattr("sys.argv", ["controllers", "functions"])
    monkeypatch.setattr(controller_process.uvloop, "run", lambda main: main.close())
    try:
        gc.set_threshold(700, 10, 10)
        assert controller_process.main() == 0
        young, middle, old = gc.get_threshold()
        assert young * middle * old >= 1_000_000
    finally:
        gc.set_threshold(*before)
