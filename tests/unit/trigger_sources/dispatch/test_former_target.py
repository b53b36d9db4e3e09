"""A trigger goes on at the place of its former function after an edit, and the state goes over with it."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers.stores import ComposedStore

from trigger_sources.dispatch.former_target import TARGET_KEY, Former, former_of
from trigger_sources.dispatch.host import FabricStore
from trigger_sources.stores.none import NoStore
from trigger_sources.stores.sqlite import Store


@pytest.mark.parametrize(
    ("ended", "noted", "with_state", "former"),
    [
        ([], None, [], Former()),  # a new trigger
        ([], None, ["f"], Former()),  # a restart
        (["a"], None, ["a"], Former("a")),  # an edit
        ([], None, ["a"], Former("a")),  # an edit while the fabric was away
        (["f", "a"], None, ["f", "a"], Former()),  # a is no target any more
        (["a"], None, ["f", "a"], Former("a")),
        ([], None, ["f", "a"], Former()),
        (["a"], None, ["a", "b"], Former("a")),  # b left before
        ([], None, ["a", "b"], Former(None, ("a", "b"))),
        (["a", "b"], None, ["a", "b"], Former(None, ("a", "b"))),
        ([], "a", ["a", "b"], Former("a")),
        ([], "f", ["a"], Former()),  # another replica wrote late for a
        ([], "a", ["f", "a"], Former("a")),  # and now back
    ],
)
def test_the_former_target(ended: list[str], noted: str | None, with_state: list[str], former: Former) -> None:
    assert former_of("f", ended, noted, with_state) == former


@pytest.mark.parametrize("kind", ["sqlite", "composed"])
async def test_the_state_goes_over_once(tmp_path: Path, kind: str) -> None:
    async with Store.open(tmp_path / "s.db") as sqlite:
        store: FabricStore = sqlite if kind == "sqlite" else ComposedStore(NoStore())
        await store.state("uid", "a").put("k", b"1")
        await store.state("other", "a").put("k", b"other's")
        await store.state("uid", "").put("suspended", b"1")

        async def hand_over(function: str, ended: Collection[str] = ()) -> Former:
            return await store.hand_over("uid", function, partial(former_of, function, ended))

        assert await hand_over("b") == Former("a")
        await store.state("uid", "a").put("late", b"another replica's")
        for _ in range(2):
            assert await hand_over("b") == Former()
            assert await store.state("uid", "b").get("k") == b"1"
        await store.state("uid", "b").put("k", b"2")
        assert await hand_over("a") == Former("b")
        assert await store.state("uid", "a").get("k") == b"2"
        assert await store.state("uid", "a").get("late") is None
        assert await store.state("uid", "b").get("k") is None
        assert await store.state("other", "a").get("k") == b"other's"
        assert await store.state("uid", "").get("suspended") == b"1"
        assert await store.state("uid", "").get(TARGET_KEY) == b"a"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12))
async def test_however_often_the_function_is_exchanged_the_place_goes_along(edits: list[tuple[str, bool]]) -> None:
    store = ComposedStore(NoStore())
    await store.state("uid", "a").put("place", b"0")
    before = "a"
    for number, (function, restarted) in enumerate(edits):
        ended = () if restarted else (before,)
        await store.hand_over("uid", function, partial(former_of, function, ended))
        state = store.state("uid", function)
        assert await state.get("place") == b"%d" % number
        await state.put("place", b"%d" % (number + 1))
        before = function
