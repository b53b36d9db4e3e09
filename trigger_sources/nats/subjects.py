"""The algebra of NATS subjects: which patterns cover, overlap and join which. Pure.

A pattern's tokens are literal, `*` for exactly one token, or a last `>` for one or more tokens.
"""

import re
from collections.abc import Iterable, Sequence

_INTERNAL = "$"  # the first character of the subjects of JetStream, of its key-value stores, and of kubeirq's streams
_ONE_TOKEN = re.compile(r"\$\d+|\{\{\s*(wildcard|partition|left|right)\s*\([^{}]*\)\s*\}\}", re.IGNORECASE)


def checked_subject(subject: str, *, wildcards: bool) -> str:
    """The subject. Raises ValueError: a blank or a line break in it would be read as a command of its own."""
    tokens = subject.split(".")
    if any(c.isspace() or c == "\0" for c in subject) or not all(tokens):
        raise ValueError(f"{subject!r} is not a subject: tokens without blanks, joined by dots")
    if wildcards and ">" in subject[:-1]:
        raise ValueError(f"{subject!r}: > may stand only at the end")
    if not wildcards and not {"*", ">"}.isdisjoint(tokens):
        raise ValueError(f"{subject!r}: a message has a subject without wildcards")
    return subject


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both patterns."""
    left, right = one.split("."), other.split(".")
    for position in range(max(len(left), len(right))):
        if position >= len(left) or position >= len(right):
            return False
        here, there = left[position], right[position]
        if ">" in (here, there):
            return True
        if here != there and "*" not in (here, there):
            return False
    return True


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject that matches `narrow` matches `wide`."""
    left, right = wide.split("."), narrow.split(".")
    for position, here in enumerate(left):
        if position >= len(right):
            return False
        if here == ">":
            return True
        if right[position] == ">" or here not in ("*", right[position]):
            return False
    return len(left) == len(right)


def all_covered(patterns: Sequence[str], narrow: str) -> bool:
    """Whether every subject that matches `narrow` matches at least one of the patterns.

    Literal tokens are without number, so a `*` is covered only by a pattern with a wildcard there. A `>` stands for
    every number of tokens, and each number may be covered by another pattern: `a.>` by `a.*` with `a.*.>`.
    """
    tokens = narrow.split(".")
    if tokens[-1] != ">":
        return any(covers(pattern, narrow) for pattern in patterns)
    longest = max((len(pattern.split(".")) for pattern in patterns), default=0)
    lengths = range(1, max(1, longest - len(tokens) + 1) + 2)
    return all(
        any(covers(pattern, ".".join([*tokens[:-1], *["*"] * count])) for pattern in patterns) for count in lengths
    )


def overlapping(patterns: Iterable[str], subject: str) -> list[str]:
    """The patterns that overlap the subject, without internal ones such as `$JS.>`, unless the subject is one."""
    return [
        pattern
        for pattern in patterns
        if overlap(pattern, subject) and (subject.startswith(_INTERNAL) or not pattern.startswith(_INTERNAL))
    ]


def transformed(patterns: Sequence[str], source: str, destination: str) -> Sequence[str] | None:
    """The patterns of the messages in a stream that renames `source` to `destination`. None if they cannot be known."""
    tokens = re.sub(_ONE_TOKEN, "*", destination).split(".")
    if any("{{" in part or ("*" in part and part != "*") for part in tokens):
        return None
    kept = [pattern for pattern in patterns if not covers(source, pattern)]
    return [*kept, ".".join(tokens)]


def extended(patterns: Sequence[str], subject: str) -> list[str]:
    """Patterns that cover the given ones and the subject, and of which no two overlap, as a stream needs them."""
    found, added = list(patterns), subject
    while overlaps := [pattern for pattern in found if overlap(pattern, added)]:
        found = [pattern for pattern in found if pattern not in overlaps]
        for pattern in overlaps:
            added = _join(pattern, added)
    return [*found, added]


def _join(one: str, other: str) -> str:
    """The narrowest pattern that covers both of two overlapping ones."""
    if covers(one, other):
        return one
    tokens: list[str] = []
    for here, there in zip(one.split("."), other.split("."), strict=False):
        if ">" in (here, there):
            return ".".join([*tokens, ">"])
        tokens.append(here if here == there else "*")
    return ".".join(tokens)
