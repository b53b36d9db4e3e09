"""Bounds how often a controller sets an object back that others keep changing: a fight helps nobody. Pure."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

MOST = 5
WITHIN_SECONDS = 3_600.0


@dataclass
class _Writes:
    wanted: str  # a digest of the desired state
    put_back: list[float]  # the times


class PutBacks(Generic[Key]):
    """The writes of each object. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._writes: dict[Key, _Writes] = {}

    def may_write(self, key: Key, wanted: str, now: float, *, is_written: bool = False) -> bool:
        """Whether this desired state may be written. `is_written`: the live object says that it was written before.

        The first write of another desired state always may.
        """
        known = self._writes.get(key)
        if known is None or known.wanted != wanted:
            known = self._writes[key] = _Writes(wanted, [])
            if not is_written:
                return True
        known.put_back = [at for at in known.put_back if now - at < WITHIN_SECONDS]
        if len(known.put_back) >= MOST:
            return False
        known.put_back.append(now)
        return True

    def forget(self, key: Key) -> None:
        self._writes.pop(key, None)
