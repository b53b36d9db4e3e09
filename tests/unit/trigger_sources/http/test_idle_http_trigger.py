"""An HTTP trigger without requests costs no time: a process has thousands of them."""

import asyncio

from trigger_sources.http.gateway import Gateway
from trigger_sources.http.source import HTTPTrigger
from trigger_sources.testing import StandInContext


class Counting(StandInContext):
    rounds = 0

    @property
    def room(self) -> int:  # type: ignore[override]
        self.rounds += 1
        return 64

    @room.setter
    def room(self, _: int) -> None: ...


async def test_it_waits_for_a_request_or_its_stop_alone() -> None:
    context = Counting(gateway=Gateway())
    deliveries = HTTPTrigger.model_validate({"function": "f"}).deliveries(context)
    waiting = asyncio.ensure_future(anext(deliveries, None))  # type: ignore[call-overload]
    await asyncio.sleep(0.1)
    rounds = context.rounds
    await asyncio.sleep(2.2)
    assert context.rounds == rounds
    context.stopping.set()
    async with asyncio.timeout(5):
        assert await waiting is None


def test_nobody_asks_for_the_lag_of_a_trigger_whose_callers_wait() -> None:
    assert not HTTPTrigger.model_validate({"function": "f"}).has_lag
    assert HTTPTrigger.model_validate({"function": "f", "answer": "accepted"}).has_lag
