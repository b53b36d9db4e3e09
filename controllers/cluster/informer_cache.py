"""A cache of objects that a watch fills, answers to writes update, and a periodic list corrects. Pure.

Watch, list and answers race each other. The cache never goes back in time: it drops an object that is older than the
one that it has or than the deletion that it saw. So it does not matter in which order the three arrive.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Version:
    """The uid of an object and the moment in its life. All kinds of an API server share one count of moments."""

    uid: str
    number: int | None = None  # None: unknown, and then neither older nor newer than another

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Version":
        metadata = found["metadata"]
        number = str(metadata.get("resourceVersion", ""))
        return cls(metadata["uid"], int(number) if number.isdecimal() else None)

    def is_older_than(self, other: "Version") -> bool:
        return self.number is not None and other.number is not None and self.number < other.number


class InformerCache(Generic[Key, Value]):
    """The newest observed value of each object. While a value stays equal, it is the same Python object.

    A list is the authority for an object without news since `begin_list`, so that the cache recovers after a restore of
    the API server's data, which sets the count of moments back.
    """

    def __init__(self) -> None:
        self._objects: dict[Key, tuple[Version, Value]] = {}
        self._deleted: dict[Key, tuple[Version, int]] = {}  # with the number of lists before the deletion
        self._changed_since_list: set[Key] = set()
        self._lists = 0

    def get(self, key: Key) -> Value | None:
        found = self._objects.get(key)
        return None if found is None else found[1]

    def __contains__(self, key: Key) -> bool:
        return key in self._objects

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._objects)

    def items(self) -> Iterator[tuple[Key, Value]]:
        return ((key, value) for key, (_, value) in self._objects.items())

    def update(self, key: Key, version: Version, value: Value) -> bool:
        """Takes an object of a watch event or of the answer to a write. Returns whether the value changed."""
        if self._is_outdated(key, version):
            return False
        self._changed_since_list.add(key)
        self._deleted.pop(key, None)
        before = self._objects.get(key)
        if before is not None and before[1] == value:
            self._objects[key] = (version, before[1])
            return False
        self._objects[key] = (version, value)
        return True

    def delete(self, key: Key, version: Version) -> bool:
        """Takes the last state of a deleted object. Returns whether the object was in the cache.

        A new object may have taken its name since. It stays.
        """
        before = self._objects.get(key)
        if before is not None and (before[0].uid != version.uid or version.is_older_than(before[0])):
            return False
        if not self._is_outdated(key, version):
            self._changed_since_list.add(key)
            self._deleted[key] = (version, self._lists)
        return self._objects.pop(key, None) is not None

    def begin_list(self) -> None:
        """Call this before you send the list request."""
        self._changed_since_list.clear()
        self._lists += 1

    def replace(self, listed: Mapping[Key, tuple[Version, Value]]) -> set[Key]:
        """Takes the result of the list: version and value of each object. Returns the keys whose value changed."""
        before, self._objects = self._objects, {}
        for key in before.keys() | listed.keys():
            cached, found = before.get(key), listed.get(key)
            if key in self._changed_since_list and (found is None or not self._is_newer(found[0], key, cached)):
                found = cached
            if found is not None:
                is_same = cached is not None and cached[1] == found[1]
                self._objects[key] = (found[0], cached[1]) if cached is not None and is_same else found
            elif cached is not None:
                self._deleted[key] = (cached[0], self._lists)
        # a write whose answer is still to come began before the latest deletions, and not before the earlier ones
        self._deleted = {key: found for key, found in self._deleted.items() if found[1] >= self._lists - 1}
        return {
            key for key in before.keys() | self._objects.keys()
            if key not in before or key not in self._objects or before[key][1] != self._objects[key][1]
        }  # fmt: skip

    def _is_outdated(self, key: Key, version: Version) -> bool:
        """Whether the cache has seen a newer state of the object."""
        if (cached := self._objects.get(key)) is not None:
            return version.is_older_than(cached[0])
        deleted = self._deleted.get(key)
        if deleted is None or version.number is None:
            return False
        # a deletion has a number of its own; some servers give the object's last one
        return version == deleted[0] or version.is_older_than(deleted[0])

    def _is_newer(self, version: Version, key: Key, cached: tuple[Version, Value] | None) -> bool:
        """Whether a listed object is newer than the news about it since the list began."""
        news = cached or self._deleted.get(key)
        return news is None or news[0].is_older_than(version)
