"""The fabric's own durable store on one machine: one SQLite file with states, dead letters and inboxes."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from trigger_sources.dead_letters import DeadLetter, letter_from_metadata, metadata_from_letter
from trigger_sources.source import SourceError

T = TypeVar("T")

_VERSION = 1
_SCHEMA = """
CREATE TABLE state (
    uid TEXT NOT NULL, function TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (uid, function, key)
) WITHOUT ROWID;
CREATE TABLE dead_letters (
    number INTEGER PRIMARY KEY,
    uid TEXT NOT NULL, function TEXT NOT NULL, position TEXT NOT NULL,
    failed_at REAL NOT NULL, metadata BLOB NOT NULL, data BLOB,
    UNIQUE (uid, function, position)
);
CREATE INDEX dead_letters_by_age ON dead_letters (uid, failed_at, number);
CREATE TABLE inbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL, record BLOB NOT NULL
);
CREATE INDEX inbox_by_uid ON inbox (uid, sequence);
"""
_LETTERS_A_READ = 64
_MOST_IN_A_TRANSACTION = 1_000


class StoreError(SourceError):
    """The store's file cannot be used. The text names the file and says what to do."""


class Store:
    """One file, one process, one writer. Every method that writes returns once its write is durable.

    Writes that arrive while a transaction is being written go into the next one together: a disk flush each would cost
    a hundred times the write. Lives in one event loop. Every method may raise StoreError.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self.path = path
        self._connection = connection
        self._thread = thread
        self._waiting: list[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._closed = False
        self._inboxes: dict[str, Inbox] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str | Path) -> AsyncIterator["Store"]:
        """The store in that file, made if it is not there; its folder too. One process may have it open at a time."""
        path = Path(path)
        loop = asyncio.get_running_loop()
        # SQLite's connection and every use of it stay in this one thread
        with ThreadPoolExecutor(1, thread_name_prefix="store") as thread:
            connection = await loop.run_in_executor(thread, _connect, path)
            store = cls(path, connection, thread)
            try:
                yield store
            finally:
                store._closed = True
                if store._writer is not None:
                    await asyncio.wait({store._writer})
                await loop.run_in_executor(thread, connection.close)

    def state(self, uid: str, function: str) -> "StoreState":
        """The small durable state of that trigger and function."""
        return StoreState(self, uid, function)

    def dead_letters(self, uid: str, function: str | None = None) -> "StoreDeadLetters":
        """The dead letters of that trigger: of one function, or None for all of them."""
        return StoreDeadLetters(self, uid, function)

    def inbox(self, uid: str) -> "Inbox":
        """The durable queue of that trigger: always the same object, so that who reads it hears of what arrives."""
        return self._inboxes.setdefault(uid, Inbox(self, uid))

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` in the writer's thread; returns its result once everything it wrote is durable.

        It must be repeatable: if the transaction that it shares with others fails, it runs again alone.
        """
        if self._closed:
            raise StoreError("StoreClosed", f"{self.path}: the store is closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await done

    async def _write(self) -> None:
        """Writes transaction after transaction until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._waiting[:_MOST_IN_A_TRANSACTION]
            del self._waiting[:_MOST_IN_A_TRANSACTION]
            works = [work for work, _ in batch]
            results = await loop.run_in_executor(self._thread, _transact, self._connection, works)
            for (_, done), result in zip(batch, results, strict=True):
                if done.done():
                    continue  # who asked was cancelled; what it asked for is done nevertheless
                if isinstance(result, sqlite3.Error):
                    done.set_exception(_explained(self.path, result))
                elif isinstance(result, BaseException):
                    done.set_exception(result)
                else:
                    done.set_result(result)


class StoreState:
    """A `source.State` in the store."""

    def __init__(self, store: Store, uid: str, function: str) -> None:
        self._store = store
        self._owner = (uid, function)

    async def get(self, key: str) -> bytes | None:
        row = await self._store.run(
            lambda connection: connection.execute(
                "SELECT value FROM state WHERE uid = ? AND function = ? AND key = ?", (*self._owner, key)
            ).fetchone()
        )
        return None if row is None else bytes(row[0])

    async def put(self, key: str, value: bytes) -> None:
        await self._store.run(
            lambda connection: (
                connection.execute(
                    "INSERT INTO state VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                    (*self._owner, key, value),
                ).rowcount
            )
        )

    async def delete(self, key: str) -> None:
        await self._store.run(
            lambda connection: (
                connection.execute(
                    "DELETE FROM state WHERE uid = ? AND function = ? AND key = ?", (*self._owner, key)
                ).rowcount
            )
        )


class StoreDeadLetters:
    """A `dead_letters.DeadLetters` in the store."""

    def __init__(self, store: Store, uid: str, function: str | None) -> None:
        self._store = store
        self._uid = uid
        self._function = function

    async def prepare(self) -> None:
        """Nothing is missing once the store is open."""

    async def write(self, letter: DeadLetter) -> None:
        row = (
            self._uid, letter.function, letter.position,
            letter.failed_at, metadata_from_letter(letter), letter.event.data,
        )  # fmt: skip
        await self._store.run(
            lambda connection: (
                connection.execute(
                    "INSERT INTO dead_letters (uid, function, position, failed_at, metadata, data)"
                    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " failed_at = excluded.failed_at, metadata = excluded.metadata, data = excluded.data",
                    row,
                ).rowcount
            )
        )

    async def letters(self) -> AsyncIterator[DeadLetter]:
        """Reads a page at a time: however many there are, few are in memory."""
        failed_at, number = float("-inf"), -1
        while True:
            page = await self._store.run(self._page(failed_at, number))
            for number, failed_at, metadata, data in page:  # noqa: B007  where the next page begins
                try:
                    letter = letter_from_metadata(metadata, data)
                except ValueError as error:
                    raise StoreError(
                        "StoreCorrupt", f"{self._store.path}: dead letter {number} of {self._uid}: {error}"
                    ) from error
                yield letter
            if len(page) < _LETTERS_A_READ:
                return

    async def remove(self, letter: DeadLetter) -> None:
        identity = (self._uid, letter.function, letter.position)
        await self._store.run(
            lambda connection: (
                connection.execute(
                    "DELETE FROM dead_letters WHERE uid = ? AND function = ? AND position = ?", identity
                ).rowcount
            )
        )

    async def close(self) -> None:
        """The store is its opener's to close."""

    def _page(
        self, failed_at: float, number: int
    ) -> Callable[[sqlite3.Connection], list[tuple[int, float, bytes, bytes | None]]]:
        return lambda connection: connection.execute(
            "SELECT number, failed_at, metadata, data FROM dead_letters"
            " WHERE uid = ? AND (failed_at, number) > (?, ?) AND function = coalesce(?, function)"
            " ORDER BY failed_at, number LIMIT ?",
            (self._uid, failed_at, number, self._function, _LETTERS_A_READ),
        ).fetchall()


class Inbox:
    """A durable queue of records, for events that are accepted before they are delivered.

    `arrived` is set whenever records have become durable; its one reader clears it before it reads.
    """

    def __init__(self, store: Store, uid: str) -> None:
        self._store = store
        self._uid = uid
        self.arrived = asyncio.Event()

    async def append(self, record: bytes) -> int:
        """The record's sequence: greater than all before it, never used again. Returns once it is durable."""
        (sequence,) = await self.append_all([record])
        return sequence

    async def append_all(self, records: Sequence[bytes]) -> list[int]:
        """The sequences of the records, in order; all of them become durable or none."""

        def insert(connection: sqlite3.Connection) -> list[int]:
            sequences = []
            for record in records:
                cursor = connection.execute("INSERT INTO inbox (uid, record) VALUES (?, ?)", (self._uid, record))
                assert cursor.lastrowid is not None
                sequences.append(cursor.lastrowid)
            return sequences

        try:
            return await self._store.run(insert)
        finally:
            self.arrived.set()  # also when cancelled: what was asked for may be written nevertheless

    async def read(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """The first records whose sequence is greater than `after`, in order, at most `limit`."""
        return await self._store.run(
            lambda connection: connection.execute(
                "SELECT sequence, record FROM inbox WHERE uid = ? AND sequence > ? ORDER BY sequence LIMIT ?",
                (self._uid, after, limit),
            ).fetchall()
        )

    async def remove(self, sequences: Iterable[int]) -> None:
        """Returns once they are gone for good. One that is gone already is no error."""
        rows = [(sequence, self._uid) for sequence in sequences]
        await self._store.run(
            lambda connection: connection.executemany("DELETE FROM inbox WHERE sequence = ? AND uid = ?", rows).rowcount
        )

    async def count(self) -> int:
        """How many records there are. It counts: not for every event."""
        (count,) = await self._store.run(
            lambda connection: connection.execute("SELECT count(*) FROM inbox WHERE uid = ?", (self._uid,)).fetchone()
        )
        return int(count)


def _transact(connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
    """Each work's result or the exception that it met: all in one transaction, or else each in its own."""
    try:
        return _in_one_transaction(connection, works)
    except Exception as error:  # noqa: BLE001  raised again where it was asked for
        if len(works) == 1:
            return [error]
        # One that cannot be written must not take the others with it
        return [result for work in works for result in _transact(connection, [work])]


def _in_one_transaction(
    connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Any]]
) -> list[Any]:
    try:
        connection.execute("BEGIN IMMEDIATE")
        results = [work(connection) for work in works]
        connection.execute("COMMIT")
        return results
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _connect(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=1, isolation_level=None)
    except OSError as error:
        raise StoreError("StoreUnavailable", f"{path}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    try:
        # The file is this process's alone while it is open: a second fabric on it is refused, not interleaved
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN EXCLUSIVE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise StoreError(
                "StoreVersion",
                f"{path}: written by another version of kubeirq (format {version}, known: {_VERSION});"
                " use that version, or another file",
            )
        connection.execute("BEGIN IMMEDIATE")  # takes the lock now, not at the first write
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        connection.close()
        raise _explained(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _explained(path: Path, error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without the extended part
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        reason, advice = "StoreLocked", "another process has it open; stop that one, or use another folder"
    elif code == sqlite3.SQLITE_FULL:
        reason, advice = "StoreFull", "the disk is full; make room on it"
    elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        reason, advice = "StoreCorrupt", "it is damaged or no store; move it away and restore a copy of it"
    else:
        reason, advice = "StoreUnavailable", "check the disk and the rights to the file"
    problem = StoreError(reason, f"{path}: {error}: {advice}")
    problem.__cause__ = error
    return problem
