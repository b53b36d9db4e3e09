"""The fields of a NATSTrigger, and the stream and consumer that they name."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from trigger_sources.context import Context
from trigger_sources.nats.connection import Connection, connection_to, servers_of
from trigger_sources.nats.consumer import Owner
from trigger_sources.nats.security import Security
from trigger_sources.nats.source_stream import Wish
from trigger_sources.nats.subjects import checked_subject
from trigger_sources.source import TriggerSource
from trigger_sources.spec import Servers, Spec, start_time


class KeyFrom(Spec):
    """The place of an event's key: a token of the subject, from 1, or a header."""

    subject_token: int | None = Field(None, ge=1, description="The number of a token of the subject, from 1")
    header: str | None = Field(None, min_length=1, description="The name of a header")

    @model_validator(mode="after")
    def _exactly_one(self) -> "KeyFrom":
        if (self.subject_token is None) == (self.header is None):
            raise ValueError("exactly one of subjectToken, header is needed")
        return self


class NATSSpec(TriggerSource):
    """The fields of a NATSTrigger, and the names that follow from them. NATSTrigger adds the reading."""

    servers: Servers = Field(
        default_factory=list,
        description="Addresses such as nats://, tls://, ws://, wss://, or host:port; unset: the fabric's own server",
    )
    subject: str = Field(min_length=1, description="The subject to listen on; it may have wildcards")
    mode: Literal["jetstream", "core"] = Field(
        "jetstream", description="jetstream: a stream, at least once; core: a core subject, at most once"
    )
    stream: str | None = Field(None, description="The stream; unset: the one that has the subject")
    durable: str | None = Field(None, description="The name of the consumer; unset: one made from the trigger's name")
    queue: str | None = Field(
        None, description="The queue group of a core subject; unset: one made from the trigger's name"
    )
    start: str = Field(
        "all", description="The place where a new consumer begins: all, new, a sequence, or an RFC 3339 time"
    )
    create_stream: bool = Field(
        False, description="Whether a missing stream is created; on the fabric's own server it always is"
    )
    ack_wait_seconds: float = Field(
        30, ge=1, description="The time after which the server hands out again the messages that a dead fabric held"
    )
    key: KeyFrom | None = Field(None, description="The key, for ordering: key; unset: the subject is the key")
    security: Security | None = Field(None, description="Login and encryption; unset: no login")

    @property
    def extend_seconds(self) -> float:  # type: ignore[override]
        """A held message is extended twice before the server hands it out again."""
        return self.ack_wait_seconds / 3

    @field_validator("subject")
    @classmethod
    def _is_a_subject(cls, value: str) -> str:
        return checked_subject(value, wildcards=True)

    @field_validator("stream", "durable", "queue")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        return value if value is None else _checked_name(value)

    @model_validator(mode="after")
    def _dead_letters_have_a_stream(self) -> "NATSSpec":
        if self.mode == "jetstream" and (name := self.delivery.dead_letter.name) is not None:
            try:
                _checked_name(name)
            except ValueError as error:
                raise ValueError(f"delivery.deadLetter.name: {error}") from None
        return self

    @field_validator("start")
    @classmethod
    def _known_start(cls, value: str) -> str:
        if value not in ("all", "new") and not value.isdigit():
            start_time(value, "all, new, a sequence")
        return value

    @property
    def addresses(self) -> Mapping[str, Sequence[str]]:
        return {"nats": self.servers}

    def name_in(self, context: Context) -> str:
        """The name of the consumer or queue group."""
        name = self.durable if self.mode == "jetstream" else self.queue
        if name is not None:
            return name
        return self.own_names(context) + _named(context.function)

    def own_names(self, context: Context) -> str:
        """The first part of the names of the consumers that the spec does not name."""
        return _named(f"kubeirq-{context.namespace}-{context.name}-")

    async def connection(self, context: Context) -> Connection:
        """The process' connection to the servers. Raises SourceError, MissingSecret."""
        return await connection_to(servers_of(self.servers, context), self.security, context)

    def wish(self, context: Context, consumer: str) -> Wish:
        """The stream that the trigger asks for, with its consumer of that name."""
        owned = not self.servers and "nats" in context.own_servers
        return Wish(self.subject, self.stream, consumer, self.create_stream or owned, owned)

    def owner(self, context: Context) -> Owner:
        """The owner of the trigger's consumer."""
        return Owner(f"{context.namespace}/{context.name}", context.function, context.uid)


def _named(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


def _checked_name(value: str) -> str:
    """The name of a stream, consumer or queue group. It is a part of subjects."""
    if not re.fullmatch(r"[^\s.*>/\\\0]+", value):
        raise ValueError(f"{value!r} is not a name: no blanks, dots, wildcards or slashes")
    return value
