"""Which fields of each source decide where its dead letters are: each field is edited, and the place is compared."""

from typing import Any

import pytest

from trigger_sources.cron import CronTrigger
from trigger_sources.dead_letters import DeadLetters
from trigger_sources.http import HTTPTrigger
from trigger_sources.kafka import KafkaTrigger
from trigger_sources.kafka.dead_letters import KafkaDeadLetters
from trigger_sources.nats import NATSTrigger
from trigger_sources.nats.dead_letters import StreamDeadLetters
from trigger_sources.source import TriggerSource
from trigger_sources.testing import StandInContext

SPECS: dict[type[TriggerSource], dict[str, Any]] = {
    CronTrigger: {"function": "f", "schedule": "* * * * *"},
    HTTPTrigger: {"function": "f"},
    KafkaTrigger: {"function": "f", "topics": ["t"], "brokers": ["a:9092"]},
    NATSTrigger: {"function": "f", "subject": "s.>", "servers": ["nats://a:4222"], "key": {"header": "k"}},
}
# Another value for each field, as a model has it
COMMON: dict[str, Any] = {
    "target": {"function": "g"}, "ordering": "partition", "concurrency": 3, "filter": "true", "filter_error": "drop",
    "reply": {"function": "h"}, "suspend": True,
}  # fmt: skip
EDITS: dict[type[TriggerSource], dict[str, Any]] = {
    CronTrigger: {
        "schedule": "1 * * * *", "at": "2030-01-01T00:00:00Z", "attributes": {"a": "b"}, "catch_up": 3,
        "concurrency_policy": "Forbid", "jitter_seconds": 1, "payload": "x", "starting_deadline_seconds": 9,
        "time_zone": "Europe/Paris",
    },
    HTTPTrigger: {
        "answer": "accepted", "auth": None, "body_limit_bytes": 9, "cors": None, "expose": None, "host": "x.example",
        "key_header": "x", "max_backlog": 7, "methods": ["PUT"], "path": "/x",
    },
    KafkaTrigger: {
        "brokers": ["b:9092"], "topics": ["u"], "topic_pattern": "x.*", "group": "g", "start": "latest",
        "tombstones": "skip", "max_distance": 3, "create_topics": True, "security": None,
    },
    NATSTrigger: {
        "servers": ["nats://b:4222"], "subject": "t.>", "mode": "core", "stream": "S", "durable": "d", "queue": "q",
        "start": "new", "create_stream": True, "ack_wait_seconds": 9, "key": None, "security": None,
    },
}  # fmt: skip
KINDS = sorted(SPECS, key=lambda kind: kind.__name__)


def place_of(letters: DeadLetters | None) -> object:
    """Where the letters are, without a look there."""
    if letters is None:
        return "the fabric's own store"
    if isinstance(letters, KafkaDeadLetters):
        return (letters.topic, letters._brokers)
    assert isinstance(letters, StreamDeadLetters)
    connection: Any = letters._connection
    return (letters._stream, connection.func.__self__.servers)


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_letter_fields_and_the_name_change_where_dead_letters_are(kind: type[TriggerSource]) -> None:
    trigger, context = kind.model_validate(SPECS[kind]), StandInContext()
    before, edits = place_of(trigger.dead_letters(context)), {**COMMON, **EDITS[kind]}
    moving = set()
    for field in set(kind.model_fields) - {"delivery"}:
        assert field in edits, f"write another value of {kind.__name__}.{field} into the table"
        if place_of(trigger.model_copy(update={field: edits[field]}).dead_letters(context)) != before:
            moving.add(field)
    assert moving == set(kind.letter_fields)


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_moves_the_dead_letters_that_are_not_in_the_store(kind: type[TriggerSource]) -> None:
    context = StandInContext()
    named = {**SPECS[kind], "delivery": {"deadLetter": {"name": "other"}}}
    before, after = (place_of(kind.model_validate(spec).dead_letters(context)) for spec in (SPECS[kind], named))
    assert (before != after) == bool(kind.letter_fields)


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_setting_of_delivery_moves_them(kind: type[TriggerSource]) -> None:
    context = StandInContext()
    edited = {**SPECS[kind], "delivery": {"attempts": 3, "timeoutSeconds": 7, "onFailure": "park", "maxAgeSeconds": 9}}
    before, after = (place_of(kind.model_validate(spec).dead_letters(context)) for spec in (SPECS[kind], edited))
    assert before == after
