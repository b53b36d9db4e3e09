"""Whether any broker answers a member of a group, which may have no partitions."""

import asyncio
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.kafka.answers import Answers

BROKERS = (1, 2, 3, 4)


def consumer(hung: Collection[int], dead: Collection[int]) -> Any:
    """Of a cluster whose hung brokers hide the others from the client, which asks for metadata one by one."""

    async def send(broker: int, request: object) -> Any:
        if broker in hung:
            await asyncio.Event().wait()
        if broker in dead:
            raise KafkaConnectionError
        return SimpleNamespace(topics=[])

    async def force_metadata_update() -> bool:
        if hung:
            await asyncio.Event().wait()
        return len(dead) < len(BROKERS)

    cluster = SimpleNamespace(brokers=lambda: [SimpleNamespace(nodeId=broker) for broker in BROKERS])
    client = SimpleNamespace(send=send, force_metadata_update=force_metadata_update, cluster=cluster)
    return SimpleNamespace(_client=client)


@pytest.mark.parametrize("needed", [set(), {1}, {2}, {1, 2}])
@pytest.mark.parametrize("hung", [{1}, {1, 2}])
async def test_a_hung_broker_hides_no_other_one(needed: set[int], hung: set[int]) -> None:
    answers = Answers(consumer(hung, ()))
    assert await answers.look(needed, 0.05)
    assert await answers.look(needed, 0.05)
    assert needed & answers.silent == needed & hung


@given(st.sets(st.sampled_from(BROKERS)), st.sets(st.sampled_from(BROKERS)))
def test_no_broker_answers_exactly_where_none_does(needed: set[int], dead: set[int]) -> None:
    answered = asyncio.run(Answers(consumer((), dead)).look(needed, 5))
    assert answered == (dead != set(BROKERS))


@pytest.mark.parametrize("needed", [set(), {1}])
async def test_a_cluster_that_hangs_does_not_answer(needed: set[int]) -> None:
    assert not await Answers(consumer(BROKERS, ())).look(needed, 0.05)
