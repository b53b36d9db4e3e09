"""What a watch says there is, made good by a listing now and then. Pure."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Known(Generic[Key, Value]):
    """The last word about each object.

    What a watch says while a listing is under way is newer than that. A name may have been given to another object
    meanwhile: what is said of the old one's end is about its `uid`.
    """

    def __init__(self) -> None:
        self._found: dict[Key, tuple[str, Value]] = {}  # with its uid
        self._touched: set[Key] = set()

    def get(self, key: Key) -> Value | None:
        found = self._found.get(key)
        return None if found is None else found[1]

    def __contains__(self, key: Key) -> bool:
        return key in self._found

    def items(self) -> Iterator[tuple[Key, Value]]:
        return ((key, value) for key, (_, value) in self._found.items())

    def seen(self, key: Key, uid: str, value: Value) -> bool:
        """Whether that is news."""
        self._touched.add(key)
        before = self._found.get(key)
        self._found[key] = (uid, value)
        return before is None or before[1] != value

    def gone(self, key: Key, uid: str) -> bool:
        """Whether that is news."""
        before = self._found.get(key)
        if before is None or before[0] != uid:
            return False
        self._touched.add(key)
        del self._found[key]
        return True

    def listing(self) -> None:
        """A listing begins."""
        self._touched.clear()

    def listed(self, found: Mapping[Key, tuple[str, Value]]) -> set[Key]:
        """All there were when the listing was answered, with their uids. Returns the keys of what is another now."""
        before = self._found
        self._found = {key: value for key, value in found.items() if key not in self._touched}
        self._found |= {key: value for key, value in before.items() if key in self._touched}
        return {
            key for key in before.keys() | self._found.keys()
            if key not in before or key not in self._found or before[key][1] != self._found[key][1]
        }  # fmt: skip
