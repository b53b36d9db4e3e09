"""The settled offsets above a committed one, as text for the commit's metadata. Pure.

Two forms, each after its version. `k1` has run lengths: short while few events are unsettled, and all that version 0.1
reads. `k2` has a bit for each offset: it takes the place of run lengths that do not fit, as when every other record
waits behind one key. Then version 0.1 finds nothing settled, and repeats these records.
"""

import base64
import binascii
from collections.abc import Collection, Iterable, Sequence

MOST_BYTES = 4096  # the broker's usual limit for the metadata of a commit
LEAST_BYTES = 64  # a topic's id and the other marks fit
_RUNS, _BITS = "k1:", "k2:"
_MOST_SETTLED = 1_000_000  # more are no metadata of ours


def encode(base: int, settled: Iterable[int], marks: Collection[int] = (), most_bytes: int = MOST_BYTES) -> str:
    """The settled offsets from `base` on, and the marks, in at most `most_bytes`.

    The highest offsets are left out if they do not fit.
    """
    offsets = sorted(settled)
    data, count = _runs_in(base, offsets, marks, _room(most_bytes))
    if count < len(offsets):
        bits, many = _bits_in(base, offsets, marks, _room(most_bytes))
        if many > count:
            return _BITS + base64.b64encode(bits).decode()
    return _RUNS + base64.b64encode(data).decode() if data else ""


def decode(base: int, metadata: str) -> set[int]:
    """The settled offsets; empty if the metadata is damaged or from another program."""
    found: set[int] = set()
    data = _data_of(metadata)
    if metadata.startswith(_BITS):
        for index, byte in enumerate(data[_end_of_marks(data) :]):
            found.update(base + 8 * index + bit for bit in range(8) if byte >> bit & 1)
        return found
    at = base
    for gap, length in _pairs(data):
        at += gap
        found.update(range(at, at + length))
        at += length
    return found


def marks_of(metadata: str) -> list[int]:
    """The marks; empty if there are none, or if the metadata is damaged or from another program."""
    data = _data_of(metadata)
    if metadata.startswith(_BITS):
        return (_numbers(data[: _end_of_marks(data)]) or [0])[1:]
    return [gap for gap, length in _pairs(data) if not length]


def _room(most_bytes: int) -> int:
    """The bytes that fit in base64 behind the version."""
    return (most_bytes - len(_RUNS)) // 4 * 3


def _runs_in(base: int, offsets: Sequence[int], marks: Collection[int], room: int) -> tuple[bytes, int]:
    """Run lengths, alternately unsettled and settled, as variable-length numbers; and how many offsets they have.

    Each mark stands at the end as a gap before no settled offset, so that version 0.1 reads past it.
    """
    data, end = bytearray(), b"".join(_number(mark) + b"\0" for mark in marks)
    at, count = base, 0
    for first, last in _runs(offsets):
        piece = _number(first - at) + _number(last - first + 1)
        if len(data) + len(piece) + len(end) > room:
            break
        data += piece
        at = last + 1
        count += last - first + 1
    return bytes(data + end), count


def _bits_in(base: int, offsets: Sequence[int], marks: Collection[int], room: int) -> tuple[bytes, int]:
    """The number of marks, the marks, and a bit for each offset from `base` on; and how many offsets they have."""
    head = _number(len(marks)) + b"".join(map(_number, marks))
    bits = bytearray(max(0, room - len(head)))
    count = 0
    for offset in offsets:
        index, bit = divmod(offset - base, 8)
        if index >= len(bits):
            break
        bits[index] |= 1 << bit
        count += 1
    return head + bits.rstrip(b"\0"), count


def _data_of(metadata: str) -> bytes:
    """The bytes behind the version; none if the metadata is damaged or from another program."""
    if not metadata.startswith((_RUNS, _BITS)):
        return b""
    try:
        return base64.b64decode(metadata[len(_RUNS) :], validate=True)
    except (binascii.Error, ValueError):
        return b""


def _pairs(data: bytes) -> list[tuple[int, int]]:
    """Each gap with the number of settled offsets behind it."""
    numbers = _numbers(data)
    if numbers is None or len(numbers) % 2 or sum(numbers[1::2]) > _MOST_SETTLED:
        return []
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _end_of_marks(data: bytes) -> int:
    """The place behind the number of marks and the marks; the end if some are missing."""
    ends = [at + 1 for at, byte in enumerate(data) if not byte & 0x80]
    count = (_numbers(data[: ends[0]]) or [0])[0] if ends else 0
    return ends[count] if count < len(ends) else len(data)


def _runs(offsets: Sequence[int]) -> Iterable[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    index = 0
    while index < len(offsets):
        first = last = offsets[index]
        index += 1
        while index < len(offsets) and offsets[index] == last + 1:
            last += 1
            index += 1
        yield first, last


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _numbers(data: bytes) -> list[int] | None:
    """None when the last number is cut off."""
    found, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            found.append(value)
            value = shift = 0
    return None if shift else found
