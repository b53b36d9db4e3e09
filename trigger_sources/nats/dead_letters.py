"""Dead letters in a stream, each with a subject of its own. JetStream triggers and the JetStream store use it."""

import base64
import copy
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from trigger_sources.dead_letters import (
    DeadLetter,
    LetterTooLarge,
    Unreadable,
    letter_from_metadata,
    log_unreadable,
    metadata_from_letter,
)
from trigger_sources.nats.connection import Connection, JetStreamError
from trigger_sources.nats.streams import check_publishing, ensure_stream, messages_by_subject

_LENGTH_BYTES = 4
_TOO_LARGE = 10054  # JetStream's code for a message that is larger than its stream takes


class StreamDeadLetters:
    """The dead letters of one trigger and function. The stream may have letters of others too.

    A message consists of the metadata's length, the metadata as JSON, and the original bytes. Its subject identifies
    the letter. `connection` may raise SourceError.
    """

    def __init__(
        self,
        connection: Callable[[], Awaitable[Connection]],
        stream: str,
        uid: str,
        function: str,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._all = f"$KUBEIRQ.dead.{stream}"
        self._uid = uid
        self._mine = self._subject_of(function)
        self._unreadable: Callable[[Unreadable], None] = log_unreadable
        self._config = config or {}
        self._prepared = False

    async def functions(self) -> list[str]:
        """Reads one letter of each trigger and function in the stream: the subjects have hashes of the names only."""
        found = []
        connection = await self._connection()
        subjects = messages_by_subject(connection, self._stream, f"{self._all}.>")
        for subject in sorted({subject.rpartition(".")[0] async for subject, _ in subjects}):
            async for _, letter in self._read(f"{subject}.*"):
                if isinstance(letter, DeadLetter):
                    if letter.trigger_uid == self._uid:
                        found.append(letter.function)
                    break
        return found

    def of(self, function: str, unreadable: Callable[[Unreadable], None]) -> "StreamDeadLetters":
        other = copy.copy(self)
        other._mine, other._unreadable = self._subject_of(function), unreadable
        return other

    async def place(self) -> str:
        connection = await self._connection()
        try:
            info = await connection.api(f"STREAM.INFO.{self._stream}", {})
        except JetStreamError as error:
            if error.not_found:
                return ""
            raise
        return f"nats/{self._stream}@{info['created']}"

    async def prepare(self) -> None:
        connection = await self._connection()
        config = {
            "name": self._stream,
            "subjects": [f"{self._all}.>"],
            "storage": "file",
            "max_msgs_per_subject": 1,  # a letter replaces an older one of the same identity
            "description": "Dead letters of kubeirq",
            **self._config,
        }
        await ensure_stream(connection, config)
        await check_publishing(connection, f"{self._mine}.{hash_of('')}")
        self._prepared = True

    async def write(self, letter: DeadLetter) -> None:
        if not self._prepared:
            await self.prepare()
        connection = await self._connection()
        body = _body(letter)
        if len(body) > connection.client.max_payload:
            raise LetterTooLarge(f"{len(body)} bytes; the server's max_payload is {connection.client.max_payload}")
        try:
            await connection.publish(self._subject(letter), [body])
        except JetStreamError as error:
            if error.code == _TOO_LARGE:
                raise LetterTooLarge(
                    f"stream {self._stream!r}: {error}; its max_msg_size bounds a dead letter"
                ) from error
            raise

    async def letters(self) -> AsyncIterator[DeadLetter]:
        async for sequence, letter in self._read(f"{self._mine}.*"):
            if isinstance(letter, DeadLetter):
                yield letter
            else:  # from another program, or of a newer version: it stays where it is
                self._unreadable(Unreadable(f"stream {self._stream}, sequence {sequence}", str(letter)))

    async def _read(self, subject: str) -> AsyncIterator[tuple[int, DeadLetter | ValueError]]:
        """The present messages with that subject, with their sequences."""
        connection = await self._connection()
        try:
            info = await connection.api(f"STREAM.INFO.{self._stream}", {})
        except JetStreamError as error:
            if error.not_found:
                return
            raise
        sequence, last = 1, info["state"]["last_seq"]
        while sequence <= last:
            connection = await self._connection()
            try:
                message = await connection.api(
                    f"STREAM.MSG.GET.{self._stream}", {"seq": sequence, "next_by_subj": subject}
                )
            except JetStreamError as error:
                if error.not_found:
                    break
                raise
            found = message["message"]["seq"]
            if found > last:
                break  # a newer failure of a letter that was yielded already, or of another event
            data = base64.b64decode(message["message"].get("data", ""))
            length = int.from_bytes(data[:_LENGTH_BYTES], "big")
            try:
                yield (
                    found,
                    letter_from_metadata(data[_LENGTH_BYTES : _LENGTH_BYTES + length], data[_LENGTH_BYTES + length :]),
                )
            except ValueError as error:
                yield found, error
            sequence = found + 1

    async def count(self) -> int:
        """The number of messages that a new consumer would get; the consumer takes none."""
        connection = await self._connection()
        config = {"filter_subject": f"{self._mine}.*", "ack_policy": "none", "mem_storage": True}
        try:
            found = await connection.api(
                f"CONSUMER.CREATE.{self._stream}", {"stream_name": self._stream, "config": config}
            )
            await connection.api(f"CONSUMER.DELETE.{self._stream}.{found['name']}")
        except JetStreamError as error:
            if not error.not_found:
                raise
            return 0
        count: int = found["num_pending"]
        return count

    async def remove(self, letter: DeadLetter) -> None:
        connection = await self._connection()
        try:
            await connection.api(f"STREAM.PURGE.{self._stream}", {"filter": self._subject(letter)})
        except JetStreamError as error:
            if not error.not_found:
                raise

    async def close(self) -> None:
        """The owner of the connection closes it."""

    def _subject(self, letter: DeadLetter) -> str:
        return f"{self._subject_of(letter.function)}.{hash_of(letter.identity)}"

    def _subject_of(self, function: str) -> str:
        """The first part of the subjects of that function's letters."""
        return f"{self._all}.{hash_of(f'{self._uid}/{function}')}"


def hash_of(text: str) -> str:
    """A short hash of the text, for subjects and consumer names, which allow few characters."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _body(letter: DeadLetter) -> bytes:
    metadata = metadata_from_letter(letter)
    return len(metadata).to_bytes(_LENGTH_BYTES, "big") + metadata + (letter.event.data or b"")
