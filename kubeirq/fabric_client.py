"""The fabric that a command asks, wherever it runs: what it can be asked, and what it answers."""

import difflib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class NotRunning(Exception):
    """There is no such fabric. The text says how to start or reach one."""


class Refused(Exception):
    """The fabric said no, and why."""


Table = tuple[Sequence[str], Sequence[Sequence[Any]]]  # names of columns, rows
Named = Mapping[str, Any]  # at least kind, namespace, name


@dataclass(frozen=True)
class Overview:
    """What runs, the worst first."""

    value: Mapping[str, Any]  # functions and triggers, for scripts
    tables: Sequence[Table]  # for people
    is_healthy: bool  # everything is Ready


@dataclass(frozen=True)
class Description:
    """One thing in detail, and what to do next."""

    value: Mapping[str, Any]
    lines: Sequence[str]


@dataclass(frozen=True)
class Answer:
    """A function's."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Published:
    """How many, and where they are, where the source tells that."""

    count: int
    positions: Sequence[str] = field(default_factory=list)


class Asked(Protocol):
    """Every method raises NotRunning and Refused. A `trigger` is what `trigger(name)` returned."""

    async def overview(self, what: str | None, everywhere: bool) -> Overview:
        """Of everything, of a kind (`functions`, `triggers`, `KafkaTrigger`), or of what has this name; of the
        namespace that was chosen, or of all.
        """

    async def describe(self, name: str) -> Description: ...

    async def call(self, function: str, body: bytes, content_type: str) -> Answer: ...

    async def publish(self, trigger: str, body: bytes, content_type: str, key: str | None, count: int) -> Published: ...

    def logs(self, name: str, tail: int, follow: bool) -> AsyncIterator[str]:
        """Lines of a function or trigger: at most `tail` of the past, then those to come, if asked to follow."""

    async def trigger(self, name: str) -> Named:
        """The trigger that NAME, KIND/NAME or NAMESPACE/NAME means."""

    async def suspend(self, trigger: Named) -> None: ...

    async def resume(self, trigger: Named) -> None: ...

    async def dead_letters(self, trigger: Named, limit: int) -> list[dict[str, Any]]: ...

    async def dead_letter(self, trigger: Named, identity: str) -> dict[str, Any]:
        """With `data` in base64."""

    def redrive(self, trigger: Named, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A line for each letter, then one that is `done`."""

    async def purge(self, trigger: Named, identities: Sequence[str] | None) -> int: ...

    async def lanes(self, trigger: Named) -> list[dict[str, Any]]: ...

    async def act_on_lanes(self, trigger: Named, verb: str, key: str | None) -> int:
        """`release` or `skip`; `key` is in base64, None is all. How many lanes."""


def one_of(found: Sequence[Named], name: str, where: str = "") -> Named:
    """What NAME, KIND/NAME or NAMESPACE/NAME means. Raises Refused when it is nothing, or several things."""
    matching = all_of(found, name, where)
    several = {(one["kind"], one["namespace"], one["name"]) for one in matching}
    if len(several) > 1:
        raise Refused(f"{name!r} is several: {', '.join(f'{kind}/{n}' for kind, _, n in sorted(several))}")
    return matching[0]


def all_of(found: Sequence[Named], name: str, where: str = "") -> list[Named]:
    """Everything that NAME, KIND/NAME or NAMESPACE/NAME means. Raises Refused, with the nearest, when it is nothing."""
    front, _, last = name.rpartition("/")
    matching = [
        one
        for one in found
        if one["name"] == last and (not front or front.lower() in (one["kind"].lower(), one["namespace"]))
    ]
    if matching:
        return matching
    names = sorted({one["name"] for one in found})
    near = difflib.get_close_matches(last, names, 1)
    raise Refused(
        f"no {name!r}{where}"
        + (f"; did you mean {near[0]!r}?" if near else f"; there is: {', '.join(names) or 'nothing'}")
    )


def chosen(found: Sequence[Named], what: str | None, kinds: Collection[str], where: str = "") -> list[Named]:
    """All of them, those of a kind (in any case, plural or not), or what has that name. Raises Refused."""
    if what is None:
        return list(found)
    wanted = what.lower().rstrip("s")
    if wanted in ("function", "trigger"):
        return [one for one in found if (one["kind"] == "Function") == (wanted == "function")]
    if wanted in {kind.lower() for kind in kinds}:
        return [one for one in found if one["kind"].lower() == wanted]
    return all_of(found, what, where)
