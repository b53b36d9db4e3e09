"""The stream that a trigger reads: found by its subject or its name, checked, and created or extended where allowed."""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from trigger_sources.context import SourceError
from trigger_sources.nats.connection import Connection, JetStreamError
from trigger_sources.nats.consumer import consumer_info
from trigger_sources.nats.subjects import all_covered, covers, extended, overlapping, transformed

ABOUT_STREAMS = ("StreamMissing", "SeveralStreams", "SubjectNotInStream")  # the reasons of errors
_INVALID_CONFIGURATION = 10052
_REFUSED_CONFIGURATION = (_INVALID_CONFIGURATION, 10058, 10065)  # the name, or a subject, belongs to another stream
_LIMITS = ("max_age", "max_bytes", "max_msgs", "max_msgs_per_subject")
_ATTEMPTS = 3

# Triggers of one process extend a stream one after the other: each change starts from the one before
_changing: "WeakKeyDictionary[Connection, asyncio.Lock]" = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Wish:
    """The part of a trigger's spec that says which stream it reads."""

    subject: str
    stream: str | None
    consumer: str
    may_create: bool  # a missing stream may be created
    may_extend: bool  # it is the fabric's own server: a stream may get more subjects, too


@dataclass(frozen=True, slots=True)
class SourceStream:
    """A stream as it was found. `problem` says which part of the trigger's subject it does not have."""

    name: str
    created: str  # the server's time: another stream of the same name has another one
    subjects: Sequence[str]  # those of its messages
    last_sequence: int
    opaque: bool  # it also has messages of other streams: its subjects do not tell what is in it
    plain: bool  # it keeps every message until someone removes it
    is_work_queue: bool = False  # it has only messages that are not acknowledged
    first_sequence: int = 0
    removed: int = 0  # the number of messages that it had and has no more
    limits: str = ""  # the limits by which it removes messages
    reason: str = ""
    problem: str = ""

    @property
    def place(self) -> str:
        """Unique for each stream: its name, and its creation as seconds and their fraction."""
        seconds = int(datetime.fromisoformat(f"{self.created[:19]}+00:00").timestamp())
        return f"{self.name}@{seconds}{self.created[19:].strip('.Z')}"

    @property
    def text(self) -> str:
        return f"{self.name} ({', '.join(self.subjects)})"

    def with_problem(self, reason: str, problem: str) -> "SourceStream":
        return replace(self, reason=reason, problem=problem)

    def policy_from(self, sequence: int) -> Mapping[str, Any]:
        """The deliver policy of a consumer that continues there. A work queue takes no other policy than `all`."""
        if self.is_work_queue:
            return {"deliver_policy": "all"}
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": sequence}

    def has_all(self, subject: str) -> bool:
        return self.opaque or all_covered(self.subjects, subject)

    def is_all(self, subject: str) -> bool:
        """Whether every message of the stream has such a subject."""
        return subject == ">" or (not self.opaque and all(covers(subject, pattern) for pattern in self.subjects))

    def has_some(self, subject: str) -> bool:
        return self.opaque or bool(overlapping(self.subjects, subject))


async def find_stream(connection: Connection, wish: Wish) -> SourceStream:
    """The stream to read. Raises SourceError if there is none, or if it is not clear which one is meant."""
    if not wish.may_create:
        return await _find(connection, wish)
    async with _changing.setdefault(connection, asyncio.Lock()):
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(_InTheWay):
                return await _find(connection, wish)
        return await _find(connection, wish)


async def look_at(connection: Connection, name: str) -> SourceStream | None:
    """The stream with that name, if there is one."""
    try:
        return _stream_of(await connection.api(f"STREAM.INFO.{name}"))
    except JetStreamError as error:
        if error.not_found:
            return None
        raise


class _InTheWay(SourceError):
    """A stream cannot be created because of another one, which may have been created just now."""


async def _find(connection: Connection, wish: Wish) -> SourceStream:
    if wish.stream is not None:
        return await _named(connection, wish, wish.stream)
    found = [stream for stream in await _streams_with(connection, wish.subject) if stream.has_some(wish.subject)]
    whole = [stream for stream in found if all_covered(stream.subjects, wish.subject)]
    if whole or [stream.opaque for stream in found] == [True]:
        return (whole or found)[0]
    if not found:
        return await _create_for(connection, wish)
    if len(found) > 1:
        return await _one_of(connection, wish, found)
    if wish.may_extend and (wider := await _extend(connection, found[0], wish.subject)) is not None:
        return wider
    return _partly(found[0], wish.subject)


async def _named(connection: Connection, wish: Wish, name: str) -> SourceStream:
    found = await look_at(connection, name)
    if found is None:
        if not wish.may_create:
            raise SourceError(
                "StreamMissing", f"spec.stream: there is no stream {name!r}; create it, or set createStream"
            )
        return await _create(connection, name, wish.subject)
    if wish.may_extend and not found.has_all(wish.subject):
        found = await _extend(connection, found, wish.subject) or found
    if found.has_some(wish.subject):
        return found  # a stream that the spec names is what the trigger asks for, even if it has only a part
    raise SourceError(
        "SubjectNotInStream",
        f"spec.stream: stream {found.text} has nothing of {wish.subject!r}: correct spec.subject or spec.stream,"
        " or add the subject to the stream",
    )


async def _one_of(connection: Connection, wish: Wish, found: Sequence[SourceStream]) -> SourceStream:
    """The one stream of several that has the trigger's consumer. Raises SourceError if that is not exactly one."""
    problem = (
        f"spec.subject: {wish.subject!r} is in {len(found)} streams, {', '.join(stream.text for stream in found)}:"
        " name one in spec.stream, or write a trigger for each"
    )
    used = [stream for stream in found if await consumer_info(connection, stream.name, wish.consumer) is not None]
    if len(used) != 1:
        raise SourceError("SeveralStreams", problem)
    return used[0].with_problem("SeveralStreams", f"{problem}; only {used[0].name} is read")


def _partly(found: SourceStream, subject: str) -> SourceStream:
    return found.with_problem(
        "PartlyInStream",
        f"spec.subject: stream {found.text} has only a part of {subject!r}, and no stream has the rest: add"
        f" it to the stream, narrow spec.subject, or set spec.stream to {found.name} if that part is meant",
    )


async def _create_for(connection: Connection, wish: Wish) -> SourceStream:
    if not wish.may_create:
        raise SourceError(
            "StreamMissing", f"spec.subject: no stream has {wish.subject!r}; create one, or set createStream"
        )
    if wish.may_extend and (sibling := await _sibling(connection, wish.subject)) is not None:
        wider = await _extend(connection, sibling, wish.subject)
        if wider is not None:
            return wider
    name = _name_for(wish.subject)
    if await look_at(connection, name) is not None:  # of another subject, such as ORDERS of `orders` for `orders.>`
        name = f"{name}-{hashlib.sha256(wish.subject.encode()).hexdigest()[:8]}"
    return await _create(connection, name, wish.subject)


async def _sibling(connection: Connection, subject: str) -> SourceStream | None:
    """The one stream of subjects with the same first token, so that a trigger of all of them finds one stream only."""
    first = subject.partition(".")[0]
    if first in ("*", ">"):
        return None
    found = [
        stream
        for stream in await _streams_with(connection, f"{first}.>", first)
        if all(pattern.partition(".")[0] == first for pattern in stream.subjects) and stream.plain
    ]
    return found[0] if len(found) == 1 else None


async def _create(connection: Connection, name: str, subject: str) -> SourceStream:
    try:
        created = await connection.api(
            f"STREAM.CREATE.{name}", {"name": name, "subjects": [subject], "storage": "file"}
        )
    except JetStreamError as error:
        if error.code not in _REFUSED_CONFIGURATION:
            raise
        kind = SourceError if error.code == _INVALID_CONFIGURATION else _InTheWay
        raise kind(
            "StreamMissing",
            f"spec.subject: no stream has {subject!r}, and the server refuses to create {name} for it"
            f" ({error.description}): narrow the subject, or create a stream yourself",
        ) from error
    return _stream_of(created)


async def _extend(connection: Connection, found: SourceStream, subject: str) -> SourceStream | None:
    """Adds the subject to the stream. Returns None if the server refuses such a stream."""
    for _ in range(_ATTEMPTS):  # another process may extend it at the same moment
        info = await connection.api(f"STREAM.INFO.{found.name}")
        now = _stream_of(info)
        if now.has_all(subject):
            return now
        if info["config"].get("subject_transform"):
            return None  # a subject that it gets may be renamed
        config = {**info["config"], "subjects": extended(now.subjects, subject)}
        try:
            await connection.api(f"STREAM.UPDATE.{found.name}", config)
        except JetStreamError as error:
            if error.code not in _REFUSED_CONFIGURATION:
                raise
            return None
    return await look_at(connection, found.name)


async def _streams_with(connection: Connection, *subjects: str) -> list[SourceStream]:
    """All streams that have some of the subjects."""
    names: set[str] = set()
    for subject in subjects:
        names |= await _names_with(connection, subject)
    found = [await look_at(connection, name) for name in sorted(names)]
    return [stream for stream in found if stream is not None]


async def _names_with(connection: Connection, subject: str) -> set[str]:
    """The answer comes in pages."""
    names: set[str] = set()
    while True:
        answer = await connection.api("STREAM.NAMES", {"subject": subject, "offset": len(names)})
        page = set(answer.get("streams") or ())
        if not page - names:
            return names
        names |= page
        if len(names) >= answer.get("total", 0):
            return names


def _stream_of(info: Mapping[str, Any]) -> SourceStream:
    config = info["config"]
    subjects: Sequence[str] | None = tuple(config.get("subjects") or ())
    if transform := config.get("subject_transform"):
        subjects = transformed(subjects or (), transform.get("src") or ">", transform["dest"])
    opaque = subjects is None or any(config.get(name) for name in ("mirror", "sources"))
    limits = ", ".join(name for name in _LIMITS if config.get(name, 0) > 0)
    return SourceStream(
        name=config["name"],
        created=info["created"],
        subjects=subjects or (),
        last_sequence=info["state"]["last_seq"],
        opaque=opaque,
        is_work_queue=config["retention"] == "workqueue",
        first_sequence=info["state"]["first_seq"],
        removed=info["state"]["last_seq"] - info["state"]["messages"],
        limits=limits,
        plain=not opaque and not transform and config["retention"] == "limits" and not limits,
    )


def _name_for(subject: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", subject.replace(".>", "").replace(">", "all")).upper()
