"""The cache of observed objects never goes back in time, whichever of watch, list and answer comes first."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.cluster.informer_cache import InformerCache, Version


@dataclass
class World:
    """An API server with one object, a watch that lags, answers that are under way, and a cache.

    A request times out long before two more lists begin: lists are minutes apart.
    """

    now: int = 0
    lives: int = 0
    live: Version | None = None
    events: list[tuple[str, Version]] = field(default_factory=list)  # that the watch has not brought yet
    answers: list[tuple[Version, int]] = field(default_factory=list)  # with the number of lists before the write
    lists: int = 0
    listed: dict[str, tuple[Version, int]] | None = None  # the result of the list under way
    cache: InformerCache[str, int] = field(default_factory=InformerCache)

    def write(self, *, with_answer: bool) -> None:
        self.now += 1
        if self.live is None:
            self.lives += 1
        uid = f"u{self.lives}"
        self.live = Version(uid, self.now)
        self.events.append(("MODIFIED", self.live))
        if with_answer:
            self.answers.append((self.live, self.lists))

    def delete(self) -> None:
        if self.live is not None:
            self.now += 1
            self.events.append(("DELETED", Version(self.live.uid, self.now)))
            self.live = None

    def watch(self) -> None:
        if self.events:
            kind, version = self.events.pop(0)
            if kind == "DELETED":
                self.cache.delete("k", version)
            else:
                self.cache.update("k", version, version.number or 0)

    def answer(self, which: int) -> None:
        if self.answers:
            version, _ = self.answers.pop(which % len(self.answers))
            self.cache.update("k", version, version.number or 0)

    def list(self) -> None:
        if self.listed is None:
            self.cache.begin_list()
            self.lists += 1
            self.answers = [answer for answer in self.answers if answer[1] >= self.lists - 1]
            self.listed = {} if self.live is None else {"k": (self.live, self.live.number or 0)}
        else:
            self.cache.replace(self.listed)
            self.listed = None


STEPS = st.lists(
    st.sampled_from(["write", "answered write", "delete", "watch", "watch", "answer 0", "answer 1", "list"]),
    max_size=40,
)


@settings(max_examples=2_000, deadline=None)
@given(STEPS)
def test_it_never_goes_back_and_ends_at_the_truth(steps: list[str]) -> None:
    world, newest = World(), 0
    for step in steps:
        match step.split():
            case ["write"]:
                world.write(with_answer=False)
            case ["answered", "write"]:
                world.write(with_answer=True)
            case ["delete"]:
                world.delete()
            case ["watch"]:
                world.watch()
            case ["answer", which]:
                world.answer(int(which))
            case _:
                world.list()
        found = world.cache.get("k")
        assert found is None or found >= newest, steps
        newest = found or newest
    while world.events:
        world.watch()
    while world.answers:
        world.answer(0)
    assert world.cache.get("k") == (world.live.number if world.live is not None else None)


def test_a_list_is_the_authority_after_a_restore_of_the_servers_data() -> None:
    cache: InformerCache[str, int] = InformerCache()
    cache.update("k", Version("u", 900), 900)
    cache.update("gone", Version("g", 901), 901)
    cache.begin_list()
    assert cache.replace({"k": (Version("u", 500), 500)}) == {"k", "gone"}
    assert cache.get("k") == 500
    assert cache.update("k", Version("u", 501), 501)


def test_versions_without_a_number_are_taken_as_they_come() -> None:
    cache: InformerCache[str, int] = InformerCache()
    assert cache.update("k", Version("u"), 1)
    assert cache.update("k", Version("u"), 2)
    assert not cache.delete("k", Version("other"))
    assert cache.delete("k", Version("u"))


def test_an_object_that_leaves_a_selector_and_comes_back_is_taken_again() -> None:
    cache: InformerCache[str, int] = InformerCache()
    cache.update("k", Version("u", 1), 1)
    assert cache.delete("k", Version("u", 2)), "a watch with a selector calls that a deletion"
    assert not cache.update("k", Version("u", 1), 1)
    assert cache.update("k", Version("u", 3), 3)


def test_equal_values_are_kept_once() -> None:
    cache: InformerCache[str, list[int]] = InformerCache()
    first = [1]
    cache.update("k", Version("u", 1), first)
    cache.update("k", Version("u", 2), [1])
    assert cache.get("k") is first
    cache.begin_list()
    cache.replace({"k": (Version("u", 3), [1])})
    assert cache.get("k") is first
