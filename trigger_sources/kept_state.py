"""Reads the durable state of a trigger: a value is absent, readable, damaged, or of a newer version."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import orjson

from trigger_sources.context import SourceError, State
from trigger_sources.values import frozen

log = logging.getLogger(__name__)
T = TypeVar("T")

_SHOWN_BYTES = 200


@frozen()
class Damaged:
    """A value that was written once and says nothing any more: a file or a status that somebody or something changed.

    So the trigger ran before. The reader goes on where it loses nothing, and says so.
    """

    key: str
    problem: str

    def __str__(self) -> str:
        return f"the state {self.key!r} that the trigger keeps is damaged ({self.problem})"


async def read(state: State, key: str, parse: Callable[[bytes], T]) -> T | Damaged | None:
    """The value of `key`; None if there is none. Raises what `state` raises, and SourceError of `parse`.

    `parse` raises KeyError, TypeError, ValueError or AttributeError for bytes that are no such value.
    """
    value = await state.get(key)
    if value is None:
        return None
    try:
        return parse(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        problem = said.partition("\n")[0] if value else "it is empty"
        log.warning("state is damaged", extra={"key": key, "problem": problem, "value": value[:_SHOWN_BYTES]})
        return Damaged(key, problem)


async def read_json(
    state: State, key: str, known_version: int, parse: Callable[[Mapping[str, Any]], T]
) -> T | Damaged | None:
    """`read` for a JSON object. Its field `version` is 1 where it is left out.

    A format that an older version can read as well keeps its version. A newer one raises SourceError: a trigger that
    went on without it would forget what it says.
    """

    def parsed(value: bytes) -> T:
        found = orjson.loads(value)
        if not isinstance(found, dict):
            raise TypeError("it is no object")
        version = found.get("version", 1)
        if isinstance(version, int) and version > known_version:
            raise SourceError(
                "StateNewer",
                f"a newer version of kubeirq wrote the trigger's state {key!r} (format {version}, known:"
                f" {known_version}): run that version again, which goes on where it stopped",
            )
        return parse(found)

    return await read(state, key, parsed)
