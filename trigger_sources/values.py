"""Frozen values that are cheap to make."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(*, eq: bool = True) -> Callable[[type[T]], type[T]]:
    """A dataclass with slots that type checkers hold frozen.

    Nothing keeps it frozen at run time: that makes a constructor five times as dear, and each event takes four of them.
    """
    return dataclass(slots=True, eq=eq, unsafe_hash=eq)
