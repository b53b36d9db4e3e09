"""The next steps that `kubeirq describe` suggests."""

import pytest

from kubeirq.output.trigger_lines import next_steps


@pytest.mark.parametrize(
    ("called", "step"),
    [
        ("pay", "kubeirq describe Function/pay; its events"),
        ("127.0.0.1:9", "find out why 127.0.0.1:9 does not answer; its events"),
    ],
)
def test_for_a_function_that_is_down_the_next_step_depends_on_how_it_is_called(called: str, step: str) -> None:
    down = {"type": "Delivering", "reason": "FunctionDown"}
    (found,) = next_steps({"name": "orders", "function": called, "conditions": [down], "deadLetters": 0})
    assert found.startswith(step)
