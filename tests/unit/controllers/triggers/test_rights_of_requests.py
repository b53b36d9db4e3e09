"""The right that a request to the admin API needs."""

import pytest

from controllers.triggers.admin_rights import need_of

TRIGGER = "/v1/triggers/team/KafkaTrigger/orders"


@pytest.mark.parametrize(
    ("action", "right"),
    [
        ("filtered", "get for kafkatriggers/deadletters in namespace team"),
        ("dead-letters/show", "get for kafkatriggers/deadletters in namespace team"),
        ("lanes", "get for kafkatriggers/lanes in namespace team"),
    ],
)
def test_values_of_events_need_the_right_to_dead_letters_and_keys_the_right_to_lanes(action: str, right: str) -> None:
    assert str(need_of("GET", f"{TRIGGER}/{action}")) == right
    assert need_of("DELETE", f"{TRIGGER}/{action}") is None
