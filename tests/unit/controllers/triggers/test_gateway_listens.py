"""The moment at which the gateway of a new replica listens."""

import pytest

from controllers.triggers.process import may_listen

CONNECTED = (True, "", "")
STARTING = (False, "Starting", "")
NO_SECRET = (False, "SecretMissing", "there is no Secret")
NO_STORE = (False, "StoreUnavailable", "the store's servers do not answer")


@pytest.mark.parametrize(
    ("flows", "seconds"),
    [
        ([], 0),
        ([CONNECTED, CONNECTED], 0),
        ([CONNECTED, NO_SECRET], 2),
        ([CONNECTED, STARTING], 10),
        ([NO_SECRET, STARTING], 10),
        ([CONNECTED, NO_STORE], 10),
    ],
)
def test_it_waits_for_the_routes_and_not_long_for_a_trigger_that_cannot_connect(
    flows: list[tuple[bool, str, str]], seconds: float
) -> None:
    assert may_listen(flows, seconds)
    assert seconds == 0 or not may_listen(flows, seconds - 0.1)
