"""JSON with and without orjson."""

import importlib.util
import math
import sys
from types import ModuleType

import pytest

from runtimes.python.kubeirq_runtime import json_text


@pytest.fixture(params=["with orjson", "without"])
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module anew, before its first call."""
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "orjson", None)
    spec = importlib.util.spec_from_file_location("json_text_anew", json_text.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_give_the_same_result(chosen: ModuleType) -> None:
    assert chosen.dumps({"a": [1, None, True], 2: "b"}) == b'{"a":[1,null,true],"2":"b"}'
    assert chosen.loads(b'{"a": [1, null]}') == {"a": [1, None]}
    assert math.isnan(chosen.loads(b"NaN"))


def test_both_refuse_the_same(chosen: ModuleType) -> None:
    with pytest.raises(TypeError):
        chosen.dumps({"a": object()})
    with pytest.raises(ValueError, match="line 1"):
        chosen.loads(b"{")


@pytest.mark.parametrize(
    "text",
    ["123456789012345678901234567890", "18446744073709551616", "-9223372036854775809", '{"wei":[1,-' + "9" * 40 + "]}"],
)
def test_both_keep_every_digit_of_an_integer(chosen: ModuleType, text: str) -> None:
    assert chosen.dumps(chosen.loads(text.encode())).decode() == text


def test_a_long_row_of_digits_in_a_text_is_no_number(chosen: ModuleType) -> None:
    assert chosen.loads(b'{"card":"1234567890123456789012","pi":3.14159265358979323846264}') == {
        "card": "1234567890123456789012",
        "pi": 3.14159265358979323846264,
    }
