"""What people are told to type next."""

import pytest

from kubeirq.output.trigger_text import advice_for


@pytest.mark.parametrize(
    ("called", "advice"),
    [("pay", "kubeirq describe Function/pay; its events"), ("127.0.0.1:9", "see why 127.0.0.1:9 is away; its events")],
)
def test_what_is_down_is_looked_at_where_it_is(called: str, advice: str) -> None:
    down = {"type": "Delivering", "reason": "FunctionDown"}
    (told,) = advice_for({"name": "orders", "function": called, "conditions": [down], "deadLetters": 0})
    assert told.startswith(advice)
