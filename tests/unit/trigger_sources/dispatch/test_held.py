"""The names of lanes, which a person reads in a list and pastes into the next command."""

from collections.abc import Hashable

import pytest

from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.dispatch.held import lane_name
from trigger_sources.events import Event


async def settle(outcome: Outcome) -> None:
    pass


def delivery(
    key: bytes | None = None, position: str | None = "orders/0/7", partition: str | None = "orders/0"
) -> Delivery:
    event = Event("id-1", "/s", "t", b"", "application/json")
    return Delivery(event, settle, position=position, key=key, partition=partition)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (b"customer-7", "customer-7"),
        ("größe 7".encode(), "größe 7"),
        (b"orders/0", "orders/0"),
        (b"\xff\x00", "base64:/wA="),
        (b"two  blanks", "base64:dHdvICBibGFua3M="),
        (b"a line\nand another", "base64:YSBsaW5lCmFuZCBhbm90aGVy"),
        (b"--all", "base64:LS1hbGw="),
        (b"partition:orders/0", "base64:cGFydGl0aW9uOm9yZGVycy8w"),
        (b"", "base64:"),
    ],
)
def test_a_lane_of_a_key_is_the_key_where_a_terminal_keeps_every_character(key: bytes, name: str) -> None:
    assert lane_name(("orders/0", key), delivery(key)) == name


@pytest.mark.parametrize(
    ("lane", "found", "name"),
    [
        (None, delivery(), "event:orders/0/7"),
        (None, delivery(b"k"), "event:orders/0/7"),
        (None, delivery(position=None), "event:id-1"),
        ("orders/0", delivery(b"k"), "partition:orders/0"),
    ],
)
def test_a_lane_without_a_key_is_its_event_or_its_partition(lane: Hashable, found: Delivery, name: str) -> None:
    assert lane_name(lane, found) == name
