"""Dead letters and lanes as people read them: text as text, times as times."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

Readable = str | dict[str, str] | None  # bytes that are not text stay in base64, and say so


def readable_letter(letter: Mapping[str, Any]) -> dict[str, Any]:
    """A dead letter of the admin API, whole or its summary."""
    found = {**letter, "failedAt": time_text(letter["failedAt"]), "key": text_of(letter["key"])}
    if "headers" in letter:
        found["headers"] = [[name, text_of(value)] for name, value in letter["headers"]]
    if isinstance(letter["attempts"], list):
        found["attempts"] = [
            {**attempt, "at": time_text(attempt["at"]), "answerHead": text_of(attempt["answerHead"])}
            for attempt in letter["attempts"]
        ]
    return found


def tell_unreadable(answer: Mapping[str, Any]) -> None:
    """Writes to standard error which dead letters an answer of the admin API leaves out."""
    for line in answer.get("unreadable", ()):
        click.echo(f"(not read, and left where it is: {line})", err=True)


def readable_lane(lane: Mapping[str, Any]) -> dict[str, Any]:
    return {**lane, "since": time_text(lane["since"]), "key": text_of(lane["key"])}


def text_of(encoded: str | None) -> Readable:
    """The text that is in base64; `{"base64": ...}` where the bytes are not text."""
    if encoded is None:
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return {"base64": encoded}


def time_text(seconds: float) -> str:
    """Seconds since the epoch as an RFC 3339 time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
