"""Frozen values that are cheap to make."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(*, eq: bool = True) -> Callable[[type[T]], type[T]]:
    """A dataclass with slots that type checkers hold frozen.

    At run time it is not frozen: that would make a constructor five times as slow, and each event needs four of them.
    """
    return dataclass(slots=True, eq=eq, unsafe_hash=eq)
