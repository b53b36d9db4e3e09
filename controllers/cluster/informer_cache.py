"""A cache of objects that a watch fills and a periodic list corrects. Pure."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class InformerCache(Generic[Key, Value]):
    """The last observed value of each object.

    A watch event that arrives while a list is under way is newer than the list. A deletion carries the `uid` of the
    deleted object, because a new object may have taken its name since.
    """

    def __init__(self) -> None:
        self._objects: dict[Key, tuple[str, Value]] = {}  # with the uid
        self._changed_since_list: set[Key] = set()

    def get(self, key: Key) -> Value | None:
        found = self._objects.get(key)
        return None if found is None else found[1]

    def __contains__(self, key: Key) -> bool:
        return key in self._objects

    def items(self) -> Iterator[tuple[Key, Value]]:
        return ((key, value) for key, (_, value) in self._objects.items())

    def update(self, key: Key, uid: str, value: Value) -> bool:
        """Returns whether the value changed."""
        self._changed_since_list.add(key)
        before = self._objects.get(key)
        self._objects[key] = (uid, value)
        return before is None or before[1] != value

    def delete(self, key: Key, uid: str) -> bool:
        """Returns whether the object was in the cache."""
        before = self._objects.get(key)
        if before is None or before[0] != uid:
            return False
        self._changed_since_list.add(key)
        del self._objects[key]
        return True

    def begin_list(self) -> None:
        """Call this before you send the list request."""
        self._changed_since_list.clear()

    def replace(self, listed: Mapping[Key, tuple[str, Value]]) -> set[Key]:
        """Takes the result of the list: uid and value of each object. Returns the keys whose value changed."""
        before = self._objects
        self._objects = {key: value for key, value in listed.items() if key not in self._changed_since_list}
        self._objects |= {key: value for key, value in before.items() if key in self._changed_since_list}
        return {
            key for key in before.keys() | self._objects.keys()
            if key not in before or key not in self._objects or before[key][1] != self._objects[key][1]
        }  # fmt: skip
