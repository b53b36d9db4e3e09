"""The content of ConfigMaps follows the watch, whichever of a read and an event comes first."""

import asyncio
from typing import Any, cast

import pytest

from controllers.cluster.api import Api
from controllers.functions.references import References
from controllers.functions.resource import FunctionSpec

FUNCTION = ("a", "f")
SPEC = FunctionSpec.model_validate(
    {"source": {"inline": "def handler(event, context): ..."}, "envFrom": [{"configMapRef": {"name": "all"}}]}
)


def config_map(version: int, **data: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "a", "name": "all", "uid": "u", "resourceVersion": str(version)}, "data": data}


class Server:
    """Has one ConfigMap. An answer waits until it may come, and is of the time of the request."""

    def __init__(self, found: dict[str, Any] | None) -> None:
        self.found = found
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def get(self, *_: str) -> dict[str, Any] | None:
        found = self.found
        self.asked.set()
        await self.may_answer.wait()
        return found


@pytest.mark.parametrize("before", [None, config_map(1, A="1")])
async def test_an_answer_that_comes_after_a_newer_event_is_not_kept(before: dict[str, Any] | None) -> None:
    server = Server(before)
    references = References(cast(Api, server))
    reading = asyncio.create_task(references.digest_of(FUNCTION, SPEC))
    await server.asked.wait()
    server.found = config_map(2, A="2")
    assert references.observe({"type": "MODIFIED", "object": server.found}) == (FUNCTION,)
    server.may_answer.set()
    first = await reading
    second = await references.digest_of(FUNCTION, SPEC)
    assert second not in (None, first)
