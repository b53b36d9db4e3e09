"""A JetStream trigger's dead letters: a stream on the same servers, one subject for each letter."""

import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from trigger_sources.dead_letters import DeadLetter, letter_from_metadata, metadata_from_letter
from trigger_sources.nats.connection import Connection, JetStreamError, connection_to, servers_of
from trigger_sources.source import Context

if TYPE_CHECKING:
    from trigger_sources.nats.trigger import NATSTrigger

_LENGTH_BYTES = 4
_SECONDS = 5.0


class NATSDeadLetters:
    """A message is the metadata's length, the metadata as JSON, and the original bytes; its subject names it."""

    def __init__(self, trigger: "NATSTrigger", context: Context) -> None:
        self._trigger = trigger
        self._context = context
        self.stream = trigger.delivery.dead_letter.name or f"kubeirq-{context.namespace}-{context.name}-dead-letters"
        self._prefix = f"$KUBEIRQ.dead.{self.stream}"
        self._connection: Connection | None = None

    async def prepare(self) -> None:
        trigger, context = self._trigger, self._context
        self._connection = await connection_to(servers_of(trigger.servers, context), trigger.security, context)
        try:
            await self._connection.api(f"STREAM.INFO.{self.stream}")
        except JetStreamError as error:
            if not error.not_found:
                raise
            config = {
                "name": self.stream,
                "subjects": [f"{self._prefix}.>"],
                "storage": "file",
                "max_msgs_per_subject": 1,  # the same letter again replaces the older one
                "description": "Dead letters of kubeirq",
            }
            await self._connection.api(f"STREAM.CREATE.{self.stream}", config)

    async def write(self, letter: DeadLetter) -> None:
        assert self._connection is not None
        client = self._connection.client
        body = _body(letter)
        if len(body) > client.max_payload:  # what the function answered goes first, the event never
            body = _body(replace(letter, attempts=tuple(replace(a, answer_head=b"") for a in letter.attempts[-1:])))
        answer = orjson.loads((await client.request(self._subject(letter), body, timeout=_SECONDS)).data)
        if "error" in answer:
            raise JetStreamError(answer["error"])

    async def letters(self) -> AsyncIterator[DeadLetter]:
        assert self._connection is not None
        found = []
        sequence, subject = 1, f"{self._prefix}.{self._mine()}.*"
        while True:
            try:
                message = await self._connection.api(
                    f"STREAM.MSG.GET.{self.stream}", {"seq": sequence, "next_by_subj": subject}
                )
            except JetStreamError as error:
                if error.not_found:
                    break
                raise
            sequence = message["message"]["seq"] + 1
            data = base64.b64decode(message["message"].get("data", ""))
            length = int.from_bytes(data[:_LENGTH_BYTES], "big")
            try:
                found.append(
                    letter_from_metadata(data[_LENGTH_BYTES : _LENGTH_BYTES + length], data[_LENGTH_BYTES + length :])
                )
            except ValueError:
                continue  # of someone else, or of a newer version: left where it is
        for letter in sorted(found, key=lambda one: one.failed_at):
            yield letter

    async def remove(self, letter: DeadLetter) -> None:
        assert self._connection is not None
        await self._connection.api(f"STREAM.PURGE.{self.stream}", {"filter": self._subject(letter)})

    async def close(self) -> None:
        """The connection is shared: it is closed with its last owner."""

    def _mine(self) -> str:
        return _hash(f"{self._context.uid}/{self._context.function}")

    def _subject(self, letter: DeadLetter) -> str:
        return f"{self._prefix}.{self._mine()}.{_hash(letter.identity)}"


def _body(letter: DeadLetter) -> bytes:
    metadata = metadata_from_letter(letter)
    return len(metadata).to_bytes(_LENGTH_BYTES, "big") + metadata + (letter.event.data or b"")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
