"""Kubernetes quantities, such as 100m, 1.5 and 128Mi. Pure."""

import re
from decimal import Decimal
from typing import Any

_UNITS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)")


def amount_of(quantity: str | int | float) -> Decimal:
    """The number that a quantity stands for. Raises ValueError."""
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{quantity!r} is not a quantity; write it like 100m, 0.5 or 128Mi")
    return Decimal(found[1]) * _UNITS[found[2]]


def same_quantity(one: Any, other: Any) -> bool:
    """Whether both stand for the same amount, as 0.5 and 500m do."""
    if not all(isinstance(value, str | int | float) and not isinstance(value, bool) for value in (one, other)):
        return False
    try:
        return amount_of(one) == amount_of(other)
    except ValueError:
        return False
