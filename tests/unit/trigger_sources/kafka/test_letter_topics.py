"""Dead letters in a topic that a pattern matches call no function, whatever the topic is called."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from trigger_sources.dead_letters import DeadLetter, metadata_from_letter
from trigger_sources.events import Event
from trigger_sources.kafka import KafkaTrigger
from trigger_sources.kafka.dead_letters import METADATA_HEADER
from trigger_sources.kafka.letter_topics import LetterTopics
from trigger_sources.kafka.member import Member
from trigger_sources.kafka.partition import Partition
from trigger_sources.kafka.places import Place
from trigger_sources.testing import StandInContext

METADATA = metadata_from_letter(
    DeadLetter("uid", "default", "other", "f", "t/0/0", Event("1", "/s", "t", b"x"), "TooOld", "m", 1.0)
)


def record(offset: int, value: bytes | None, *headers: tuple[str, bytes], key: bytes = b"uid/f/t/0/0") -> Any:
    of_topic = {"topic": "old-dead", "partition": 0, "timestamp": 1, "timestamp_type": 0}
    return SimpleNamespace(**of_topic, offset=offset, value=value, key=key, headers=headers)


LETTER = record(0, b"x", (METADATA_HEADER, METADATA))
REMOVED = record(1, None)
ORDINARY = record(2, b"y", ("kubeirq-dead-letter", b"a producer's own"))


def test_letters_and_their_removals_are_no_events() -> None:
    topics = LetterTopics()
    assert topics.events("old-dead", [LETTER, REMOVED, ORDINARY]) == [ORDINARY]
    assert topics.events("old-dead", [REMOVED]) == []
    assert topics.events("orders", [REMOVED, ORDINARY]) == [REMOVED, ORDINARY]


def test_a_removal_is_known_without_its_letter() -> None:
    """Compaction, or a commit behind the letter, leaves the removal alone."""
    removed = record(1, None, (METADATA_HEADER, b'{"triggerUid":"uid"}'))
    assert LetterTopics().events("old-dead", [removed, ORDINARY]) == [ORDINARY]


def test_other_records_without_a_value_are_events() -> None:
    topics = LetterTopics()
    deleted = record(3, None, key=b"uid-7/customer")
    assert topics.events("mixed", [LETTER, deleted, REMOVED]) == [deleted]


def test_their_number_is_told_at_first_and_whenever_it_has_doubled() -> None:
    topics, told = LetterTopics(), []
    for _ in range(9):
        topics.events("old-dead", [LETTER])
        notice = topics.notice()
        told.append("" if notice is None else notice.message.partition("function: ")[2].partition(";")[0])
    assert [text for text in told if text] == [f"'old-dead' ({count})" for count in (1, 2, 4, 8)]


async def test_a_member_passes_letters_and_says_so() -> None:
    tp, context = TopicPartition("old-dead", 0), StandInContext(uid="letters")
    member = Member(
        context, cluster="c", group="g", topics=[], by_pattern=True, start="earliest", max_distance=10,
        skips_tombstones=False, concurrency=1,
    )  # fmt: skip

    async def fetched(room: int, seconds: float) -> Any:
        return [(tp, [LETTER, REMOVED, ORDINARY])]

    stand_ins: Any = member
    stand_ins._fetching = SimpleNamespace(read=fetched)
    member._joined = True
    member._partitions[tp] = partition = Partition(tp, Place(0), "c", member._settled, 1)
    (delivery,) = await member.read()
    assert delivery.position == "old-dead/0/2"
    assert partition.mark.committable == 2
    connected, reason, message = context.reports[-1]
    assert (connected, reason) == (True, "DeadLettersPassed")
    assert "'old-dead' (2)" in message


def test_a_trigger_does_not_read_its_own_dead_letters() -> None:
    with pytest.raises(ValueError, match=r"deadLetter\.name: one of spec\.topics"):
        KafkaTrigger.model_validate({"function": "f", "topics": ["a"], "delivery": {"deadLetter": {"name": "a"}}})
