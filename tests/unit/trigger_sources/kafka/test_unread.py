"""A partition that the group assigns to a member and that the member does not read is told, whatever the cause is."""

from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError

from trigger_sources.kafka.unread import Unread, unread

PARTITIONS = [TopicPartition("t", number) for number in range(3)]
READ, GIVEN_UP = SimpleNamespace(reads=True), SimpleNamespace(reads=False)


def test_a_partition_that_was_given_up_is_not_read_either() -> None:
    partitions: Any = {PARTITIONS[0]: READ, PARTITIONS[1]: GIVEN_UP}
    assert unread(PARTITIONS, partitions) == PARTITIONS[1:]


def test_those_that_stay_unread_are_told_with_their_number_and_since_when() -> None:
    found, partitions = Unread(), dict[TopicPartition, Any]()
    assert found.look(PARTITIONS, partitions, 100.0) == ""
    partitions[PARTITIONS[0]] = READ
    assert found.look(PARTITIONS, partitions, 110.0) == ""
    text = found.look(PARTITIONS, partitions, 125.0)
    assert text.startswith("2 of 3 assigned partitions have not been read for 25 s: t/1, t/2; the trigger tries again")
    partitions |= dict.fromkeys(PARTITIONS, READ)
    assert found.look(PARTITIONS, partitions, 130.0) == ""
    partitions[PARTITIONS[1]] = GIVEN_UP
    assert found.look(PARTITIONS, partitions, 140.0) == "", "it was read meanwhile"


def test_the_error_of_the_last_try_is_told() -> None:
    found = Unread()
    found.look(PARTITIONS, {}, 0.0)
    found.refused(CommitFailedError("the group rebalances"))
    assert "t/0, t/1, t/2; the last try ended with CommitFailedError" in found.look(PARTITIONS, {}, 20.0)
