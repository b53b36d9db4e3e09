"""The environment variables of a function."""

import pytest

from runtimes.python.kubeirq_runtime.settings import Settings, bytes_of


@pytest.mark.parametrize(
    ("quantity", "count"),
    [("0", 0), ("1000", 1000), ("128Mi", 128 * 2**20), ("1.5Gi", 3 * 2**29), ("1G", 10**9), ("64k", 64_000)],
)
def test_quantities_are_those_of_kubernetes(quantity: str, count: int) -> None:
    assert bytes_of(quantity) == count


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FUNC_TIMEOUT", "soon"),
        ("FUNC_TIMEOUT", "0"),
        ("FUNC_TIMEOUT", "-1"),
        ("FUNC_TIMEOUT", "nan"),
        ("FUNC_PORT", "x"),
        ("FUNC_MEMORY_LIMIT", "much"),
        ("FUNC_CONCURRENCY", "-1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=name):
        Settings({"MOD_NAME": "f", name: text})


def test_a_function_without_a_module_is_refused() -> None:
    with pytest.raises(ValueError, match="MOD_NAME"):
        Settings({"FUNC_HANDLER": "handler"})
    assert Settings({"FUNC_HANDLER": "a.b.handler"}).module == "a.b"
