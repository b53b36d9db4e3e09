"""The cache of owned objects: the answer to a write does not replace a newer watch event."""

from typing import Any, cast

from controllers.cluster.api import Api, Object
from controllers.cluster.owned_objects import OwnedObjects

OWNER: Object = {"kind": "Function", "metadata": {"namespace": "shop", "name": "pay", "uid": "u-1"}}


def deployment(version: str, **status: Any) -> Object:
    metadata = {
        "namespace": "shop", "name": "pay", "resourceVersion": version, "labels": {"function": "pay"},
        "ownerReferences": [{"uid": "u-1"}],
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"replicas": 1},
        "status": status,
    }


class Server:
    """The far side: the watch brings news of the object before the answer to its write is here."""

    def __init__(self, news: Object | None) -> None:
        self.news = news
        self.owned: OwnedObjects

    async def get(self, *names: str) -> Object | None:
        return None

    async def apply(self, wanted: Object) -> Object:
        if self.news is not None:
            self.owned.observe({"type": "MODIFIED", "object": self.news})
        return deployment("5")


async def after_a_write(news: Object | None) -> Object | None:
    server = Server(news)
    server.owned = OwnedObjects(cast("Api", server), [("apps/v1", "Deployment")], label="function")
    await server.owned.ensure(
        OWNER,
        [
            {
                **deployment(
                    "",
                ),
                "spec": {"replicas": 1},
            }
        ],
    )
    return server.owned.get(("shop", "pay"), "Deployment", "pay")


async def test_the_answer_to_a_write_does_not_replace_a_newer_watch_event() -> None:
    newer = deployment("6", observedGeneration=1)
    assert await after_a_write(newer) == newer


async def test_without_news_the_answer_counts() -> None:
    assert await after_a_write(None) == deployment("5")
